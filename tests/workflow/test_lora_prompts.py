"""Prompts of a LoRA's cleaning: which words stand around a concept, and that what is kept stands in the same ones."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from erase_plugins.engine.words import real_words
from erase_plugins.workflow import lora_prompts
from erase_plugins.workflow.lora_prompts import Beside, frames_for, kept_prompts, quiet_words
from erase_plugins.workflow.models import find_model, target_of


@pytest.fixture(scope="module")
def target():
    from erase_plugins.testing.tiny import tiny_sd1

    return target_of(tiny_sd1(), "tiny")


@pytest.mark.slow
def test_of_pocket_looks_are_quiet_and_things_are_not():
    """Styles and backgrounds of its world change what is drawn least; of its concepts few are among the quarter."""
    from erase_plugins.pocket.judge import PocketJudge
    from erase_plugins.workflow.models import as_target

    axes = PocketJudge().axes
    words = quiet_words(as_target(find_model("pocket")), ["zorbax"])
    assert len(words) == lora_prompts.COMMON // 4
    assert set(axes["style"]) <= set(words)
    assert len(set(axes["background"]) - {"orange"} - set(words)) <= 1  # an orange is a thing, too
    assert len(set(axes["concept"]) & set(words)) <= 8


def test_the_quietest_quarter_in_the_order_of_common_words(target, monkeypatch):
    """By hand: eight words and the empty prompt, whose predictions are 0 and as much as stands behind them."""
    said = {
        "one": 5.0,
        "two": 1.0,
        "three": 9.0,
        "four": 0.5,
        "five": 7.0,
        "six": 6.0,
        "barn": 0.0,
        "eight": 8.0,
        "nine": 2.0,
    }
    monkeypatch.setattr(lora_prompts, "real_words", lambda _target: tuple(said))

    def answers(_target, inputs, times, cond):
        assert inputs.shape[1:] == target.info.latent_shape and len(set(times.tolist())) == 1
        return torch.tensor([said.get(text.removeprefix("a "), 0.0) for text in cond.prompts])

    monkeypatch.setattr(lora_prompts, "asked", answers)
    assert quiet_words(target, ["Red Barn"]) == ("two", "four")


def test_every_frame_has_one_slot_and_is_there_once():
    frames = frames_for(("red", "photo", "old"), 40)
    assert len(set(frames)) == len(frames) and all(frame.count("{}") == 1 for frame in frames)
    assert {"a red {}", "a {} on a photo"} <= set(frames)
    assert frames == frames_for(("red", "photo", "old"), 40)
    assert set(frames_for(("red",), 0)) < set(frames)
    assert frames_for((), 10) == frames_for(("red",), 0)


def test_common_words_stand_around_a_slot_as_zipf_and_mandelbrot_have_it(monkeypatch):
    """By hand: of three words 1 / 3.7, 1 / 4.7 and 1 / 5.7, so 41, 32 and 27 % of all."""
    monkeypatch.setattr(lora_prompts, "_AROUND", tuple(f"{{{{}}}} {{0}} {{1}} n{number}" for number in range(3000)))
    counts = Counter(word for frame in frames_for(("one", "two", "three"), 3000)[-3000:] for word in frame.split()[1:3])
    assert [counts[word] / 6000 for word in ("one", "two", "three")] == pytest.approx([0.410, 0.323, 0.266], abs=0.02)


def test_common_words_that_mean_the_concept_are_not_kept(target):
    word = real_words(target)[0]
    kept = kept_prompts(target, [word], 50)
    assert kept[0] == "" and len(kept) > 10
    assert not {"{}", "a photo of a {}", "a picture of {}"} & {text.replace(word, "{}") for text in kept}
    assert len(kept_prompts(target, [word], 50, near=-1.0)) == 1


def test_what_is_kept_stands_by_turns_in_the_frames_of_the_concept():
    beside = Beside(["cat", "red boat"], ["", "a stone", "a hill", "snow"], 5 / 7)
    assert beside.of(["{} a", "{} b", "{} c"], 4) == ["cat a", "red boat b", "cat c", ""]
    assert beside.of(["{} a", "{} b", "{} c", "{} d"], 2) == ["red boat a", "a stone"]


def test_with_nothing_to_keep_all_are_common():
    assert Beside([], ["", "a stone", "a hill"], 0.5).of(["{} a", "{} b"], 3) == ["", "a stone", "a hill"]
