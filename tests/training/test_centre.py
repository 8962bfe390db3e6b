"""AEGIS as options of ESD: the token in the target, the turned gradient, and what is refused."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

import erase_plugins as ep
from erase_plugins.engine.adapters import Adapters
from erase_plugins.engine.context import RunContext
from erase_plugins.engine.trajectories import States
from erase_plugins.errors import RequestError
from erase_plugins.training.centre import Centre, change_size, turned
from erase_plugins.types import Concept
from erase_plugins.workflow.models import target_of

FAST = {
    "iterations": 3, "trajectories": 2, "harvest": 2, "steps": 4, "keep_words": 0, "precision": "float32", "batch": 2,
    "templates": "a {}", "lr": 1e-2,
}  # fmt: skip


@pytest.fixture
def target(tiny_sd1):
    return target_of(tiny_sd1(), "tiny")


def test_a_gradient_that_agrees_is_left_out_and_one_that_opposes_counts_across() -> None:
    """g = (2, 0): (1, 5) agrees; of (-1, 3) the part across is (0, 3)."""
    erase = [torch.tensor([2.0]), torch.tensor([0.0]), None]
    agree, oppose = ([torch.tensor([a]), torch.tensor([b]), None] for a, b in ((1.0, 5.0), (-1.0, 3.0)))
    assert turned(erase, agree, 0.5) == erase
    one, other, nothing = turned(erase, oppose, 0.5)
    assert one is not None and other is not None and nothing is None
    assert (one.item(), other.item()) == (2.0, 1.5)


def test_the_size_of_a_change_is_that_of_its_matrix(target) -> None:
    refs = target.modules("cross_kv")[:2]
    for rank in (3, None):
        adapters = Adapters(target, refs, rank, 0.5, torch.Generator().manual_seed(0))
        for part in adapters.parameters():
            part.data.normal_(generator=torch.Generator().manual_seed(1))
        whole = sum(float(delta.dense().square().sum()) for _, _, delta in adapters.edit().items())
        assert change_size(adapters).item() == pytest.approx(whole, rel=1e-5)


def test_the_token_begins_as_the_name_and_steps_towards_both_answers(target) -> None:
    centre = Centre(
        target, SimpleNamespace(disabled=torch.no_grad), (Concept("pizza"),), ("a {}",), 1e-4, RunContext("test")
    )  # fmt: skip
    x = torch.randn(2, *target.info.latent_shape, generator=torch.Generator().manual_seed(0))
    time, cond = torch.tensor([500, 200]), target.encode(["a pizza", "a pizza"])
    told = target.predict(x, time, cond)
    other = target.predict(x, time, target.encode(["a dog", "a dog"]))
    none = torch.zeros(2, dtype=torch.long)
    states = States(x, x, time, none, none, {"prompt": other})
    before = centre.rows[0].clone()
    assert torch.allclose(centre.prediction(states, cond), told, atol=1e-5)  # the name is one token
    moved = centre.rows[0] - before
    assert torch.allclose(moved.abs(), torch.full_like(moved, 1e-4), atol=1e-6)

    def away(found: torch.Tensor) -> float:
        return float((found - other).square().mean() + (found - told).square().mean())

    assert away(centre.prediction(states, cond)) < away(told)


def test_a_resumed_run_has_its_token(target) -> None:
    made = ep.erase(target, "pizza", "esd", options={**FAST, "centre": 1e-3, "hold": 0.1})
    plain = ep.erase(target, "pizza", "esd", options=FAST)
    pairs = zip(made.edit.items(), plain.edit.items(), strict=True)
    assert any(not torch.equal(one.B, other.B) for (_, _, one), (_, _, other) in pairs)
    centre = Centre(
        target, SimpleNamespace(disabled=torch.no_grad), (Concept("pizza"),), ("a {}",), 0.1, RunContext("test")
    )  # fmt: skip
    centre.load({"0": centre.rows[0] + 1})
    assert torch.equal(centre.tensors()["0"], centre.rows[0])


@pytest.mark.parametrize(
    ("model", "options", "said"),
    [
        ("pocket", {"centre": 0.1, "course": "ant"}, "leave out erase_from and course=ant"),
        ("pocket-flow", {"centre": 0.1}, "centre: tokens are learned for CLIP text encoders"),
    ],
)
def test_what_has_no_centre_is_refused(model, options, said) -> None:
    with pytest.raises(RequestError, match=said):
        ep.plan(model, "pizza", "esd", options=options)
