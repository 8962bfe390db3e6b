"""GEM: the hinge, which states it counts, and what a prompt becomes."""

from __future__ import annotations

import pytest
import torch

import erase_plugins as ep
from erase_plugins.methods.gem import hinge
from erase_plugins.types import Concept, EraseRequest
from erase_plugins.workflow.models import target_of
from tests.methods.runs import begun, prepared

FAST = {
    "iterations": 2, "trajectories": 2, "harvest": 5, "steps": 5, "keep_words": 0, "precision": "float32", "batch": 4,
    "templates": "a {}",
}  # fmt: skip


def test_the_hinge_shuts_where_the_rewording_is_near_enough() -> None:
    anchor, concept = torch.zeros(3, 1, 2, 2), torch.full((3, 1, 2, 2), 4.0)
    v = torch.tensor([4.0, 3.0, 1.0]).reshape(3, 1, 1, 1).expand(3, 1, 2, 2)
    assert hinge(v, anchor, concept, 1.0).tolist() == [16.0, 8.0, 0.0]
    assert hinge(v, anchor, concept, 0.0).tolist() == [16.0, 9.0, 1.0]
    assert hinge(v, anchor, concept, 4.0).tolist() == [16.0, 5.0, 0.0]


def loss_of(target, concept: Concept, **options) -> tuple[torch.Tensor, object]:
    request = EraseRequest("tiny", (concept,), "gem", options={**FAST, **options})
    run = begun(target, request)
    with prepared(run) as loss:
        return loss(0).detach(), run.state


def test_before_training_the_loss_is_the_way_to_the_rewording_in_early_steps(tiny_sd1) -> None:
    target = target_of(tiny_sd1(), "tiny")
    loss, pool = loss_of(target, Concept("pizza", anchor="hamburger"), early=0.4)
    states, _ = pool.batch(4, 0)
    seen = states.predictions
    ways = (seen["prompt"] - seen["anchor"]).square().flatten(1).mean(1)
    assert set(pool.states.index.tolist()) == {0, 1}
    assert float(loss) == pytest.approx(float(ways.mean()), rel=1e-4)


def test_a_concept_that_is_its_own_rewording_is_left_alone(tiny_sd1) -> None:
    target = target_of(tiny_sd1(), "tiny")
    loss, _ = loss_of(target, Concept("pizza", anchor="Pizza"))
    assert float(loss) == pytest.approx(0.0, abs=1e-10)


def test_training_makes_the_loss_smaller(tiny_sd1) -> None:
    target = target_of(tiny_sd1(), "tiny")
    losses: list[float] = []
    ep.erase(
        target, "pizza", "gem", options={**FAST, "iterations": 20, "lr": 1e-2, "early": 1.0, "batch": 10},
        listeners=[lambda event: losses.append(event.numbers["loss"]) if "loss" in event.numbers else None],
    )  # fmt: skip
    assert losses[-1] < 0.7 * losses[0]
