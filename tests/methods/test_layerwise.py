"""The layer-wise closed form: its normal equation, what it does to outputs, and the best change of a rank."""

from __future__ import annotations

import pytest
import torch

import erase_plugins as ep
from erase_plugins.api import build_request
from erase_plugins.engine.context import RunContext
from erase_plugins.errors import RequestError
from erase_plugins.manager import get_manager
from erase_plugins.methods.layerwise import LayerwiseOptions, Sums, cut, solve
from erase_plugins.testing.models import changed_since
from erase_plugins.testing.observe import snapshot
from erase_plugins.workflow.applying import apply
from erase_plugins.workflow.models import target_of

FAST = {"trajectories": 3, "harvest": 2, "steps": 4, "keep_words": 2}


@pytest.fixture
def target(tiny_sd1):
    pipe = tiny_sd1()
    for name, part in pipe.unet.named_parameters():
        part.data *= 8 if "attn2.to_v" in name or "attn2.to_out.0.weight" in name else 1
    return target_of(pipe, "tiny")


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_solution_has_no_gradient_left():
    W, h, o, k = draw(3, 5), draw(20, 5, seed=1), draw(20, 3, seed=2), draw(30, 5, seed=3)
    sums = Sums(h.T @ h / 20, o.T @ h / 20, k.T @ k / 30)
    new = (W + solve(W, sums, 0.7, 0.05)).requires_grad_()
    loss = (
        (h @ new.T - o).square().sum() / 20
        + 0.7 * (k @ (new - W).T).square().sum() / 30
        + 0.05 * (new - W).square().sum()
    )
    (grad,) = torch.autograd.grad(loss, [new])
    torch.testing.assert_close(grad, torch.zeros_like(grad), atol=1e-10, rtol=0)


def test_outputs_that_are_wanted_already_change_nothing():
    W, h = draw(3, 5), draw(20, 5, seed=1)
    moment = h.T @ h
    torch.testing.assert_close(solve(W, Sums(moment, W @ moment, moment), 1.0, 0.1), torch.zeros_like(W))


def test_a_cut_change_is_the_best_of_its_rank_for_the_inputs():
    """Its error on the inputs is the rest of the singular values of change times root of the moment."""
    change, h = draw(6, 5), draw(40, 5, seed=1) * torch.tensor([5.0, 1, 1, 0.2, 0.1], dtype=torch.float64)
    moment = h.T @ h
    outer, inner = cut(change, moment, 2)
    error = (h @ (change - outer @ inner).T).square().sum()
    rest = torch.linalg.svdvals(h @ change.T)[2:].square().sum()
    torch.testing.assert_close(error, rest)
    whole = cut(change, moment, 5)
    torch.testing.assert_close(whole[0] @ whole[1], change)


def test_the_concept_is_drawn_as_nothing_and_nothing_as_the_concept(target):
    """Fitted without a kept term on few states, one layer answers as asked, and no other layer moves."""
    before = snapshot(target.pipe)
    states = draw(2, *target.info.latent_shape).float()
    asked = [target.encode([text] * 2) for text in ("pizza", "")]
    with torch.no_grad():
        name, empty = (target.predict(states, 500, cond) for cond in asked)
    artifact = ep.erase(target, "pizza", "layerwise", options={**FAST, "keep_words": 0, "templates": "{}", "keep": 0.0,
                                                               "eta": 0.0, "eta_null": 1.0})  # fmt: skip
    assert not changed_since(target.pipe, before)
    assert {key.split(".transformer_blocks.0.")[1] for _, key, _ in artifact.edit.items()} == {
        "attn1.to_out.0.weight", "attn2.to_out.0.weight", "ff.net.2.weight"
    }  # fmt: skip
    with apply(target.pipe, artifact), torch.no_grad():
        new_name, new_empty = (target.predict(states, 500, cond) for cond in asked)
    towards = (empty - name).flatten()
    assert float((new_name - name).flatten() @ towards) > 0
    assert float((new_empty - empty).flatten() @ towards) < 0


def test_a_rank_makes_low_rank_changes_and_eta_null_a_note(target):
    method = get_manager().method("layerwise")
    asked = build_request("tiny", "layerwise", "pizza", options={**FAST, "rank": 2, "layers": "cross"})
    plan = method.plan(asked, target.info)
    edit = method.run(plan, target, RunContext("layerwise"))
    assert edit.kinds == {"lowrank"} and edit.rank == 2
    assert all("attn2" in key for _, key, _ in edit.items()) and "guidance" in plan.notes[0]
    silent = build_request("tiny", "layerwise", "pizza", options={**FAST, "eta_null": 0.0})
    assert method.plan(silent, target.info).notes == ()


def test_a_guide_and_a_template_without_a_place_are_refused(target):
    method = get_manager().method("layerwise")
    for options, concept in (({"templates": "a picture"}, "pizza"), ({}, ep.Concept("pizza", anchor="dog"))):
        with pytest.raises(RequestError):
            method.plan(build_request("tiny", "layerwise", concept, options=options), target.info)
    assert LayerwiseOptions().rollout().harvest == 5
