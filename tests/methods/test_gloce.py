"""GLoCE: the gate and the replacement as formulas, the artifact on a tiny model, and what is refused."""

from __future__ import annotations

import pytest
import torch

import erase_plugins as ep
from erase_plugins.artifacts.token_gate import TOKEN_GATE, change, likeness, replaced
from erase_plugins.engine import image_tokens
from erase_plugins.errors import RequestError, Unsupported
from erase_plugins.methods.gloce import leading, outputs
from erase_plugins.runtime.token_gate import TokenGate
from erase_plugins.types import Concept
from erase_plugins.workflow.models import target_of
from tests.methods.runs import check_comes_off

FAST = {"steps": 4, "harvest": 2, "seeds": 1, "target_rank": 2, "anchors": 2, "templates": "a {}"}
D = 64


def synthetic() -> dict[str, torch.Tensor]:
    """Background, a target with a mean shift and four directions more, anchors with part of that shift."""
    generator = torch.Generator().manual_seed(0)

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    mix = normal(D, D) / D**0.5 * torch.logspace(0, torch.log10(torch.tensor(0.05)), D, dtype=torch.float64)
    shift, own, more = (normal(D) * 0.4, normal(D) * 0.3, normal(4, D) * 0.4)
    background = normal(4000, D) @ mix.T
    target = normal(4000, D) @ mix.T + shift + normal(4000, 4) @ more
    anchors = normal(4000, D) @ mix.T + 0.3 * shift + own
    return {"background": background, "target": target, "anchors": anchors}


def gate_of(sets: dict[str, torch.Tensor], rank: int, theta: float) -> dict[str, torch.Tensor]:
    m_t, m_n = sets["target"].mean(0), sets["background"].mean(0)
    cov = sets["target"].T.cov(correction=0)
    V_t, V_s = leading(cov, 16), leading(sets["background"].T.cov(correction=0), 2)
    gate = leading(cov + torch.outer(m_t - m_n, m_t - m_n), rank)
    one = {
        "up": V_s, "down": V_s - V_t @ (V_t.T @ V_s), "gate": gate, "surrogate": m_n, "target": m_t, "neutral": m_n
    }  # fmt: skip
    one = {name: part.float() for name, part in one.items()}
    scores = likeness(sets["anchors"], one["neutral"], one["gate"]).reshape(100, 40).amax(1)
    one["centre"] = scores.mean() + theta * scores.std()
    one["slope"] = torch.log(torch.tensor(99.0)) / (0.001 * theta)
    return {name: part[None] for name, part in one.items()}


def opened(tokens: torch.Tensor, weights: dict[str, torch.Tensor]) -> float:
    score = likeness(tokens, weights["neutral"][0], weights["gate"][0])
    return float(torch.sigmoid(weights["slope"][0] * (score - weights["centre"][0])).mean())


def test_four_directions_open_the_gate_on_the_target_and_on_little_else() -> None:
    sets = synthetic()
    weights = gate_of(sets, 4, 2.5)
    assert opened(sets["target"], weights) > 0.8
    assert opened(sets["anchors"], weights) < 0.01 and opened(sets["background"], weights) < 0.01


def test_the_mean_becomes_the_surrogates_and_the_rest_has_its_rank() -> None:
    sets = synthetic()
    one = {name: part[0] for name, part in gate_of(sets, 1, 2.5).items()}
    args = (one["surrogate"], one["target"], one["up"], one["down"])
    assert torch.equal(replaced(one["target"], *args), one["surrogate"])
    y = replaced(sets["target"].float(), *args) - one["surrogate"]
    assert int(torch.linalg.matrix_rank(y, rtol=1e-4)) == 2


def test_a_closed_gate_adds_nothing_and_two_concepts_never_both_act() -> None:
    weights = gate_of(synthetic(), 1, 2.5)
    x = torch.randn(2, 7, D, generator=torch.Generator().manual_seed(1))
    shut = {**weights, "centre": torch.tensor([9.0])}
    assert not change(x, shut).any()
    wide = {**weights, "centre": torch.tensor([-9.0])}
    both = {name: torch.cat([wide[name], shut[name]]) for name in wide}
    assert torch.allclose(change(x, both), change(x, wide), rtol=1e-5, atol=1e-6)
    other = {**wide, "surrogate": wide["surrogate"] + 1.0, "centre": torch.tensor([-9.5])}
    open_both = {name: torch.cat([wide[name], other[name]]) for name in wide}
    found, ways = change(x, open_both), [change(x, one) for one in (wide, other)]
    acts = torch.stack([torch.isclose(found, way, rtol=1e-5, atol=1e-5).all(-1) for way in ways])
    assert bool((acts.sum(0) == 1).all())


def test_what_does_not_fit_is_refused() -> None:
    weights = gate_of(synthetic(), 1, 2.5)
    with pytest.raises(Unsupported, match="met tokens of width 32"):
        TokenGate(weights)(torch.zeros(1, 4, 32))
    with pytest.raises(Unsupported, match="a token gate needs up"):
        TokenGate({"up": weights["up"]})


def test_an_artifact_changes_pictures_of_any_shape_and_comes_off_again(tiny_sd1) -> None:
    pipe = tiny_sd1()
    target = target_of(pipe, "tiny")
    artifact = ep.erase(target, ["pizza", "dog"], "gloce", options=FAST)
    group = artifact.edit.deltas["unet"]
    assert set(group) == {ref.path for ref in outputs(target.info)}
    assert all(addon.type == TOKEN_GATE and len(addon.weights["centre"]) == 2 for addon in group.values())
    for addon in group.values():
        addon.weights["centre"].fill_(-9.0)
    x = torch.randn(1, pipe.unet.config.in_channels, 8, 16, generator=torch.Generator().manual_seed(0))
    check_comes_off(pipe, target, artifact, x)


def test_the_gate_needs_two_pictures_that_must_not_change() -> None:
    with pytest.raises(RequestError, match="raise anchors or name some to keep="):
        ep.plan("pocket", Concept("pizza"), "gloce", options={"anchors": 1})


def test_a_prompt_that_serves_several_sets_is_drawn_once(tiny_sd1, monkeypatch) -> None:
    asked: list[tuple[str, ...]] = []
    drawn = image_tokens.image_tokens

    def watched(target, refs, prompts, *args, **kwargs):
        asked.append(tuple(prompts))
        return drawn(target, refs, prompts, *args, **kwargs)

    monkeypatch.setattr(image_tokens, "image_tokens", watched)
    made = ep.erase(target_of(tiny_sd1(), "tiny"), ["pizza", "dog"], "gloce", options=FAST)
    assert [prompts for prompts in asked if len(prompts) == 1] == [("a pizza",), ("a",), ("a dog",)]
    assert len(asked) == 5  # and what must not change, of each
    ((_, _, one), *_) = made.edit.items()
    assert torch.equal(one.weights["surrogate"], one.weights["neutral"])
