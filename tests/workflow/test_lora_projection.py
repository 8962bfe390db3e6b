"""A LoRA's reading of text, projected off a concept: what is pressed down, what stays, which modules are taken."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from erase_plugins.artifacts.edit import LowRank
from erase_plugins.errors import RequestError
from erase_plugins.workflow import lora_projection
from erase_plugins.workflow.lora_projection import Weights, _grams, project, readers
from erase_plugins.workflow.models import target_of

CONCEPT = "red barn"
WORDS = ("photo", "blue", "old")


@pytest.fixture(scope="module")
def target():
    from erase_plugins.testing.tiny import tiny_sd1

    return target_of(tiny_sd1(), "tiny")


@pytest.fixture(scope="module")
def deltas(target):
    return random_lora(target, ("cross_kv", "self_attn", "text"))


def random_lora(target, groups):
    generator = torch.Generator().manual_seed(3)
    found = {}
    for ref in (ref for group in groups for ref in target.modules(group)):
        down = torch.randn(4, *ref.shape[1:], generator=generator)
        found.setdefault(ref.component, {})[ref.weight] = LowRank(
            down, torch.randn(ref.shape[0], 4, generator=generator)
        )
    return found


@pytest.fixture(scope="module")
def new(target, deltas):
    return project(target, deltas, [CONCEPT], ["yellow duck"], WORDS, nullcontext)[0]


def answer(factor, rows):
    return float((rows.double() @ factor.double().T).norm())


def test_modules_that_read_text_are_told_from_others(target, deltas, new):
    refs, left = readers(target.info, deltas)
    assert set(refs) == set(new)
    assert all("attn2.to_" in key or component == "text_encoder" for component, key in refs)
    assert all("attn1" in key for _, key in left)
    assert len(refs) + len(left) == sum(len(group) for group in deltas.values())


def test_the_concept_is_silenced_and_others_stay(target, deltas):
    """Prompts that were in no sum: what the update adds for the concept falls far more than for what is kept.

    Pressed ten times as hard as by default: the rows of this tiny random encoder lie close together.
    """
    new = project(target, deltas, [CONCEPT], ["stone"], WORDS, nullcontext, weights=Weights(erase=100.0))[0]
    cond = target.encode([f"an old {CONCEPT} beside the river", "an old stone beside the river"])
    for place, factor in new.items():
        if place[0] != "unet":
            continue
        old = deltas[place[0]][place[1]].A
        shares = [answer(factor, rows[4 : last + 1]) / answer(old, rows[4 : last + 1]) for rows, last in
                  zip(cond.embeds, cond.last, strict=True)]  # fmt: skip
        assert shares[0] < 0.6 * shares[1]
        assert shares[0] < 0.1
        assert factor.shape == old.shape


def test_what_is_named_to_keep_stays_better(target, deltas, new):
    without = project(target, deltas, [CONCEPT], [], WORDS, nullcontext)[0]
    cond = target.encode(["a yellow duck"])
    rows = cond.embeds[0, 1 : cond.last[0] + 1]
    place = next(place for place in new if place[0] == "unet")
    old = deltas[place[0]][place[1]].A
    moved = [answer(found[place] - old.double(), rows) for found in (new, without)]
    assert moved[0] < moved[1]


def test_what_is_kept_stands_where_the_concept_stands(target, deltas, monkeypatch):
    """Words around the concept alone would be taken for it."""
    real, encoded = lora_projection._grams, []

    def noted(target, deep, prompts, starts):
        encoded.append(list(prompts))
        return real(target, deep, prompts, starts)

    monkeypatch.setattr(lora_projection, "_grams", noted)
    project(target, deltas, [CONCEPT, "shed"], ["yellow duck"], WORDS, nullcontext)
    named, _, asked, _ = encoded
    for phrase in (CONCEPT, "shed"):
        assert [text for text in named if phrase in text] == [text.replace("yellow duck", phrase) for text in asked]
    assert len(named) == 2 * len(asked) and f"a blue {CONCEPT}" in named


def test_other_weights_are_for_the_denoiser_alone(target, deltas, new):
    """The harder the concept's rows are pressed, the more of a factor goes; a weight of nothing leaves all of it."""
    _, tried = project(target, deltas, [CONCEPT], ["yellow duck"], WORDS, nullcontext, [0.0, 0.25, Weights().erase])
    places = {place for place in new if place[0] == "unet"}
    for place in places:
        old = deltas[place[0]][place[1]].A.double()
        moved = [float((part[place] - old).norm() / old.norm()) for part in tried]
        assert moved[0] < 1e-9 < 0.01 < moved[1] < moved[2]
        torch.testing.assert_close(tried[2][place], new[place])
    assert [set(part) for part in tried] == [places] * 3


def test_the_model_is_left_without_hooks(target, deltas, new):
    refs, _ = readers(target.info, deltas)
    assert not any(target.module(ref)._forward_pre_hooks for ref in refs.values())


def test_a_concept_without_content_is_refused(target, deltas):
    with pytest.raises(RequestError, match="no content tokens"):
        project(target, deltas, [""], [], WORDS, nullcontext)


def test_rows_count_from_the_concept_on_and_every_prompt_alike(target):
    """What stands in front of a word is read the same whatever follows: it says nothing of the concept."""
    prompts, starts = ["an old red barn", "a yellow duck in a field"], [3, 2]
    rows = target.encode(prompts).embeds.double()
    wanted = sum(part[start:].T @ part[start:] for part, start in zip(rows, starts, strict=True)) / 2
    torch.testing.assert_close(_grams(target, [], prompts, starts)[None], wanted, rtol=1e-6, atol=1e-6)
