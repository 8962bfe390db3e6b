"""Prompts of a LoRA's cleaning: which words stand around a concept, and that what is kept stands in the same ones."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from erase_plugins.engine.words import real_words
from erase_plugins.workflow import lora_prompts
from erase_plugins.workflow.lora_prompts import Beside, common_words, frames_for, kept_prompts, quiet_words
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
    target = as_target(find_model("pocket"))
    words = quiet_words(target, common_words(target, ["zorbax"]))
    assert len(words) == lora_prompts.COMMON // 4
    assert set(axes["style"]) <= set(words)
    assert len(set(axes["background"]) - {"orange"} - set(words)) <= 1  # an orange is a thing, too
    assert len(set(axes["concept"]) & set(words)) <= 8


def test_common_words_without_those_of_the_phrases(target, monkeypatch):
    monkeypatch.setattr(lora_prompts, "real_words", lambda _target: ("one", "barn", "two", "red", "three"))
    monkeypatch.setattr(lora_prompts, "COMMON", 4)
    assert common_words(target, ["Red Barn"]) == ("one", "two")


def test_the_quietest_quarter_in_the_order_of_the_words(target, monkeypatch):
    """By hand: how much the prediction for a word differs from that for the empty prompt."""
    said = dict(zip("abcdefgh", (5.0, 3.0, 9.0, 1.5, 7.0, 6.0, 8.0, 4.0), strict=True))

    def answers(_target, inputs, times, cond):
        assert inputs.shape[1:] == target.info.latent_shape and len(set(times.tolist())) == 1
        assert cond.prompts == ("", *(f"a {word}" for word in said))
        return torch.tensor([2.0, *said.values()])  # so b differs by 1 and d by 0.5

    monkeypatch.setattr(lora_prompts, "asked", answers)
    assert quiet_words(target, tuple(said)) == ("b", "d")


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
