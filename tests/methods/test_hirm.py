"""HiRM: where it writes, what the states become, what is held, and what is refused."""

from __future__ import annotations

import pytest
import torch

import erase_plugins as ep
from erase_plugins.engine import rates
from erase_plugins.errors import RequestError
from erase_plugins.types import Concept, EraseRequest
from erase_plugins.workflow.models import target_of
from tests.methods.runs import begun, prepared

FAST = {
    "iterations": 50,
    "lr": 1e-2,
    "rank": 8,
    "keep_words": 0,
    "keep_weight": 0.0,
    "aliases": False,
    "templates": "a {}",
}


@pytest.fixture
def target(tiny_sd1):
    return target_of(tiny_sd1(), "tiny")


def erase(target, concept="pizza", **options):
    losses: list[float] = []
    listen = [lambda event: losses.append(event.numbers["loss"]) if "loss" in event.numbers else None]
    return ep.erase(target, concept, "hirm", options={**FAST, **options}, listeners=listen), losses


def test_only_the_first_block_changes_and_the_loss_falls_tenfold(target) -> None:
    artifact, losses = erase(target)
    names = [name for _, name, _ in artifact.edit.items()]
    assert names and all(".layers.0." in name for name in names)
    assert set(artifact.edit.deltas) == {"text_encoder"}
    assert losses[-1] < 0.1 * losses[0]


def goal(target, seed: int = 0, **options) -> torch.Tensor:
    request = EraseRequest("tiny", (Concept("pizza"),), "hirm", options={**FAST, **options}, seed=seed)
    run = begun(target, request)
    with prepared(run):
        return run.state.goal.clone()


def test_random_directions_are_those_of_the_seed_and_of_the_length_asked_for(target) -> None:
    one, again, longer = (goal(target, towards="random", length=size) for size in (2.0, 2.0, 4.0))
    assert torch.equal(one, again)
    assert torch.allclose(2 * one, longer)
    own = target.encode(["a"]).embeds[:, 1:].norm(dim=-1).mean()
    assert torch.allclose(one.norm(dim=-1), 2 * own.expand(one.shape[:2]), rtol=1e-4)


def test_the_general_prompt_is_that_without_the_concept(target) -> None:
    assert torch.equal(goal(target), target.encode(["a"]).embeds[:, 1:])


def test_what_is_retained_moves_less(target) -> None:
    """A learning rate that would carry the empty prompt along: held, it stays closer."""

    def moved(**options) -> float:
        artifact, _ = erase(target, **options)
        before = target.encode(["", "hamburger"]).embeds
        pipe = target.pipe
        applied = ep.apply(pipe, artifact)
        after = target_of(pipe, "tiny").encode(["", "hamburger"]).embeds
        applied.remove()
        assert torch.equal(target_of(pipe, "tiny").encode(["", "hamburger"]).embeds, before)
        return float((after - before).norm() / before.norm())

    assert moved(keep_weight=10.0, keep_words=8) < 0.5 * moved()


def test_a_guide_and_random_directions_exclude_each_other() -> None:
    with pytest.raises(RequestError, match="towards=random leads nowhere"):
        ep.plan("pocket", Concept("pizza", anchor="food"), "hirm", options={"towards": "random"})


def test_the_plan_counts_the_text_encoder() -> None:
    """Four layers of 12 x 256^2 weights each read 32 rows of a prompt; 80 steps of 5 + 25 prompts count three times."""
    made = ep.plan("pocket", "pizza", "hirm", options={"keep_words": 0})
    prompts = 3 * 80 * (5 + 25) + 2 * 5
    assert made.seconds == pytest.approx(2 * 4 * 12 * 256**2 * 32 * prompts / rates.layer(256), abs=0.1)
    assert ep.plan("pocket", "pizza", "uce").seconds < made.seconds


@pytest.mark.parametrize(("lr", "moved"), [(1e-2, True), (1e-6, False)])
def test_it_is_said_that_other_prompts_moved(target, lr, moved) -> None:
    warned: list[str] = []
    listen = [lambda event: warned.append(event.message)]
    options = {**FAST, "lr": lr, "keep_words": 8}
    made = ep.erase(target, "pizza", "hirm", options=options, listeners=listen)
    assert (made.manifest.extra["numbers"]["other_prompts_cosine"] < 0.99) is moved
    assert any("prompts for other things moved" in text for text in warned) is moved
