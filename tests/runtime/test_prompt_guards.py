"""AdaVD and Semantic Surgery at run time: the formulas of their papers on random numbers."""

from __future__ import annotations

import math

import pytest
import torch

from erase_plugins.artifacts.edit import AddOn
from erase_plugins.artifacts.prompt_guards import SURGERY, opening, presence
from erase_plugins.errors import Unsupported
from erase_plugins.runtime.prompt_guards import AttachedSurgery, ValueProjection, operated

TOKENS, DIM = 6, 10


def rows(*size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def guard(count: int = 1, **config) -> ValueProjection:
    return ValueProjection({"values": rows(count, TOKENS, DIM), "null": rows(TOKENS, DIM, seed=9)}, config)


def test_the_factor_is_that_of_the_paper() -> None:
    found = opening(torch.tensor([0.93, 0.98, 0.5]), 0.93, 100.0)
    assert found.tolist() == pytest.approx([1.0, 2 / (1 + math.exp(-5)), 0.0], abs=1e-6)


def test_what_is_left_is_orthogonal_and_the_start_row_stays() -> None:
    network, v = guard(always=True), rows(2, TOKENS, DIM, seed=5)
    left = v + network(v)
    u = rows(1, TOKENS, DIM)
    assert float((left * u).sum(-1)[:, 1:].abs().max()) < 1e-5
    assert torch.equal(left[:, 0], v[:, 0])
    expected = v - (v * u).sum(-1, keepdim=True) / (u * u).sum(-1, keepdim=True) * u
    assert torch.allclose(left[:, 1:], expected[:, 1:], atol=1e-5)


def test_several_concepts_all_leave() -> None:
    network, v = guard(3, always=True), rows(2, TOKENS, DIM, seed=5)
    left, u = v + network(v), rows(3, TOKENS, DIM)
    assert float(torch.einsum("btd,ktd->bkt", left, u)[:, :, 1:].abs().max()) < 1e-4


def test_the_empty_prompt_and_unlike_values_stay() -> None:
    null = rows(TOKENS, DIM, seed=9)
    assert not guard(always=True)(null[None]).any()
    assert not guard(always=True)(null[None] * 1.001).any()
    network = guard(centre=0.93, sharpness=400.0)
    u = rows(1, TOKENS, DIM)
    v = rows(1, TOKENS, DIM, seed=5)
    unlike = v - (v * u).sum(-1, keepdim=True) / (u * u).sum(-1, keepdim=True) * u
    assert float(network(unlike).abs().max()) < 1e-6
    turned = u + network(u)  # a factor of 2 turns the concept round
    assert torch.allclose(turned[:, 1:], -u[:, 1:], atol=1e-4)


def test_a_value_guard_refuses_other_shapes() -> None:
    with pytest.raises(Unsupported, match="met values"):
        guard()(rows(1, TOKENS + 1, DIM))
    with pytest.raises(Unsupported, match="do not fit"):
        ValueProjection({"values": rows(1, TOKENS, DIM), "null": rows(TOKENS, DIM + 1)}, {})


CONFIG = {"beta": -0.3, "gamma": 0.02, "subsets": [[0], [1], [0, 1]]}


def test_presence_is_the_mean_cosine_over_positions() -> None:
    context, concepts = rows(2, TOKENS, DIM), rows(3, TOKENS, DIM, seed=1)
    by_hand = [
        [
            sum(float(torch.dot(p, c) / (p.norm() * c.norm())) for p, c in zip(prompt, concept, strict=True)) / TOKENS
            for concept in concepts
        ]
        for prompt in context
    ]
    assert torch.allclose(presence(context, concepts), torch.tensor(by_hand), atol=1e-6)


def test_what_is_found_is_taken_out_and_other_prompts_stay_bit_for_bit() -> None:
    concepts, joint = rows(2, TOKENS, DIM, seed=1), rows(3, TOKENS, DIM, seed=2)
    other = rows(1, TOKENS, DIM, seed=3)[0]
    context = torch.stack([concepts[0], other, concepts[0] + concepts[1], concepts[1]])
    assert float(presence(context, concepts)[1].max()) < 0.2
    found = operated(context, concepts, joint, CONFIG, 1.0)
    assert torch.equal(found[1], other)
    assert torch.allclose(found[0], context[0] - joint[0], atol=1e-5)
    assert torch.allclose(found[2], context[2] - joint[2], atol=1e-5)
    assert torch.allclose(found[3], context[3] - joint[1], atol=1e-5)
    assert operated(context, concepts, joint, CONFIG, 0.0) is context
    assert operated(context[1:2], concepts, joint, CONFIG, 1.0)[0].equal(other)


def test_an_attack_sees_how_a_prompt_is_operated() -> None:
    """Halfway up the score's sigmoid, the slope along a direction is what a small step measures."""
    concepts, joint = rows(1, TOKENS, DIM, seed=1), rows(1, TOKENS, DIM, seed=2)
    context = (concepts[0] + rows(1, TOKENS, DIM, seed=6)[0])[None].requires_grad_()
    config = {"beta": 0.01 - float(presence(context.detach(), concepts)), "gamma": 0.05, "subsets": [[0]]}
    along, weights = rows(1, TOKENS, DIM, seed=7), rows(1, TOKENS, DIM, seed=8)

    def value(place):
        return (operated(place, concepts, joint, config, 1.0) * weights).sum()

    (slope,) = torch.autograd.grad(value(context), context)
    with torch.no_grad():
        measured = (value(context + 1e-2 * along) - value(context - 1e-2 * along)) / 2e-2
        straight = (along * weights).sum()
    assert float((slope * along).sum()) == pytest.approx(float(measured), rel=1e-2)
    assert abs(float(measured - straight)) > 0.05 * abs(float(straight))  # the score has a part in it


def test_the_concept_itself_becomes_the_empty_prompt() -> None:
    null, away = rows(TOKENS, DIM, seed=4), rows(1, TOKENS, DIM, seed=5) * 10
    config = {"beta": -0.3, "gamma": 0.02, "subsets": [[0]]}
    assert torch.allclose(operated(null + away, away, away, config, 1.0)[0], null, atol=1e-4)


def test_only_what_is_most_present_where_no_joint_string_is_stored() -> None:
    concepts = rows(3, TOKENS, DIM, seed=1)
    joint = rows(3, TOKENS, DIM, seed=2)
    context = (3 * concepts[2] + concepts[0])[None]
    config = {"beta": 0.0, "gamma": 0.02, "subsets": [[0], [1], [2]]}
    found = operated(context, concepts, joint, config, 1.0)
    assert torch.allclose(found[0], context[0] - joint[2], atol=1e-3)


class Denoiser(torch.nn.Module):
    def forward(self, x, t, encoder_hidden_states):
        return encoder_hidden_states


def test_surgery_hangs_in_front_of_a_denoiser_and_comes_off() -> None:
    away = rows(1, TOKENS, DIM, seed=5) * 10
    addon = AddOn(SURGERY, {"concepts": away, "joint": away}, {"beta": -0.3, "gamma": 0.02, "subsets": [[0]]})
    denoiser = Denoiser()
    attached = AttachedSurgery(denoiser, addon, 1.0)
    assert float(denoiser(None, None, away).abs().max()) < 1e-3
    assert float(denoiser(None, None, encoder_hidden_states=torch.cat([away, away], dim=1)).abs().max()) < 1e-3
    attached.strength = 0.5
    assert torch.allclose(denoiser(None, None, away), 0.5 * away, atol=1e-3)
    with pytest.raises(Unsupported, match="met"):
        denoiser(None, None, away[:, 1:])
    attached.detach()
    assert denoiser(None, None, away) is away
    with pytest.raises(Unsupported, match="subset"):
        AttachedSurgery(denoiser, AddOn(SURGERY, addon.weights, {"gamma": 0.1, "subsets": []}), 1.0)
