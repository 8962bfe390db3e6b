"""ANT as a course of ESD: the sign over the steps, the term without a prompt, and what it refuses."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

import erase_plugins as ep
from erase_plugins.engine.trajectories import States
from erase_plugins.errors import RequestError
from erase_plugins.methods.esd import ESD, ESDOptions, ant_target
from erase_plugins.workflow.models import target_of

FAST = {
    "iterations": 2, "trajectories": 2, "harvest": 5, "steps": 5, "keep_words": 0, "precision": "float32", "batch": 2,
    "course": "ant",
}  # fmt: skip


def test_the_sign_flips_exactly_at_the_border() -> None:
    null, erase = (torch.randn(4, 2, 3, 3, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    found = ant_target(null, erase, 1.5, torch.tensor([True, True, False, False]))
    assert torch.allclose(found[:2], null[:2] + 1.5 * (erase - null)[:2])
    assert torch.allclose(found[2:], null[2:] - 1.5 * (erase - null)[2:])
    assert torch.equal(ant_target(null, erase, 0.0, torch.tensor([True, False, True, False])), null)


def parts_of(**options) -> list[tuple]:
    """What the loss asks for at five states of a trajectory of fifty steps."""
    index = torch.tensor([0, 6, 7, 8, 49])
    shape = (len(index), 1, 1, 1)
    zero = torch.zeros(shape)
    states = States(zero, zero, index.float(), index, index * 0, {"null": zero, "prompt": torch.ones(shape)})
    asked: list[tuple] = []
    run = SimpleNamespace(
        options=ESDOptions(course="ant", steps=50, **options), retain=lambda step: [], mean_squares=asked.extend,
        target=SimpleNamespace(encode=lambda prompts: SimpleNamespace(last=[0] * 5, prompts=prompts)),
    )  # fmt: skip
    ESD().ant_loss(run, 0, states, "concept")
    return asked


def test_the_first_seven_of_fifty_steps_are_early() -> None:
    (_, cond, wanted, weight), (_, empty, held, small) = parts_of(eta=1.0)
    assert wanted.flatten().tolist() == [1, 1, -1, -1, -1]
    assert (cond, weight, small) == ("concept", 1.0, 0.5)
    assert empty.prompts == [""] and not held.any()


def test_both_conventions_and_no_term_without_a_prompt() -> None:
    ((_, _, one, _),) = parts_of(eta=2.0, empty_weight=0.0)
    ((_, _, other, _),) = parts_of(eta=3.0, convention="code2025", empty_weight=0.0)
    assert torch.equal(one, other) and float(one.max()) == 2.0


def test_the_prediction_without_a_prompt_has_a_gradient(tiny_sd1) -> None:
    """Only early states, eta 1: the target is the teacher's own, so that all that is left is the empty prompt's part."""
    target = target_of(tiny_sd1(), "tiny")
    held, free = (
        ep.erase(target, "pizza", "esd", options={**FAST, "iterations": 4, "empty_weight": weight})
        for weight in (50.0, 0.0)
    )
    ways = [torch.cat([delta.dense().flatten() for _, _, delta in item.edit.items()]) for item in (held, free)]
    assert float((ways[0] - ways[1]).norm()) > 1e-3 * float(ways[1].norm())


def test_erase_from_is_refused() -> None:
    with pytest.raises(RequestError, match="leave out erase_from"):
        ep.plan("pocket", "cowboy", "esd", options={"course": "ant", "erase_from": "cowboy hat"})
