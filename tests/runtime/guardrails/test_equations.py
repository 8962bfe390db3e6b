"""Equations of SLD and SAFREE against numbers worked out apart from the code, and calibration by hand."""

from __future__ import annotations

import pytest
import torch

from erase_plugins.families.sentences import windows
from erase_plugins.methods.guards.embedding import threshold
from erase_plugins.methods.guards.sld import LEVELS
from erase_plugins.runtime.guardrails import safree
from erase_plugins.runtime.guardrails.steering import SafeLatentDiffusion, SafetySettings, safety, weights

SETTINGS = {name: SafetySettings(int(values[0]), *values[1:]) for name, values in LEVELS.items()}


@pytest.mark.parametrize(
    ("level", "active", "mean"),
    [("weak", 0.50, 0.32), ("medium", 0.58, 0.57), ("strong", 0.69, 0.68), ("max", 1.0, 1.0)],
)
def test_shares_of_steered_elements_are_those_of_the_specification(level, active, mean):
    d = 0.05 * torch.randn(10_000, generator=torch.Generator().manual_seed(0))
    mu = weights(d, torch.zeros_like(d), SETTINGS[level])
    assert float((mu > 0).double().mean()) == pytest.approx(active, abs=0.02)
    assert float(mu.double().mean()) == pytest.approx(mean, abs=0.02)


def test_safety_term_and_momentum_by_hand():
    u, x, s = (torch.tensor(values) for values in ([0.0, 1.0], [0.02, 3.0], [0.03, 2.0]))
    settings = SafetySettings(0, 10.0, 0.5, 0.5, 0.25)
    # d = -0.01, 1; mu = 0.1, 0 (beyond the threshold); gamma = mu (s - u) + 0.5 nu, nu = 2
    gamma, nu = safety(u, x, s, torch.tensor([2.0, 2.0]), settings)
    torch.testing.assert_close(gamma, torch.tensor([1.003, 1.0]))
    torch.testing.assert_close(nu, torch.tensor([0.25 * 2 + 0.75 * 1.003, 0.25 * 2 + 0.75]))


@pytest.mark.parametrize("settings", [SETTINGS["max"], SafetySettings(0, 0.0, 1.0, 0.0, 0.0)], ids=["s = x", "scale 0"])
def test_nothing_to_steer_is_plain_guidance(settings):
    x = torch.randn(8)
    s = x if settings.scale else torch.randn(8)
    gamma, _ = safety(torch.randn(8), x, s, torch.zeros(8), settings)
    assert not gamma.any()


def test_projectors():
    rows = torch.tensor([[1.0, 2.0, 0.0, 1.0], [0.0, 1.0, 1.0, 0.0], [1.0, 3.0, 1.0, 1.0]])  # the third is the sum
    basis = safree.basis(rows)
    assert basis.shape == (4, 2)
    C = rows[:2].double().T
    P = C @ torch.linalg.inv(C.T @ C) @ C.T
    torch.testing.assert_close(basis @ basis.T, P, atol=1e-12, rtol=0)
    e = torch.randn(5, 4)
    once = safree.onto(basis, e)
    torch.testing.assert_close(safree.onto(basis, once.float()).float(), once.float())
    assert safree.onto(basis, (e.double() - once)).abs().max() < 1e-12


def test_a_token_whose_masking_leads_away_is_a_trigger():
    concept = safree.basis(torch.tensor([[1.0, 0.0, 0.0]]))
    masked = torch.tensor([[1.0, 0.1, 0.0], [0.2, 1.0, 0.0], [1.0, 0.0, 0.1]])  # distances 0.1, 1, 0.1
    assert safree.triggers(masked, concept, 0.01).tolist() == [False, True, False]
    assert not safree.triggers(masked, concept, float("inf")).any()
    # distances 2, 1, 1: the others' mean is 1, so the first is as far as 1 + alpha up to alpha = 1
    apart = torch.tensor([[0.0, 2.0, 0.0], [5.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    assert safree.triggers(apart, concept, 0.99).tolist() == [True, False, False]
    assert not safree.triggers(apart, concept, 1.01).any()
    assert safree.triggers(masked[:1], concept, 0.01).tolist() == [False], "one token has no others"
    rows = torch.tensor([[3.0, 1.0, 0.5], [2.0, 4.0, 1.0], [0.0, 1.0, 1.0]])
    new, _ = safree.cleaned(rows, masked, concept, 0.01)
    torch.testing.assert_close(
        new, torch.tensor([[3.0, 1.0, 0.5], [0.0, 4.0, 1.0], [0.0, 1.0, 1.0]]), atol=1e-6, rtol=0
    )
    same, beta = safree.cleaned(rows, masked, concept, 1e9)
    assert torch.equal(same, rows)
    # the span of the masked rows is everything; (I - P_C) drops the first coordinate of every row
    cosines = [(1 + 0.25) ** 0.5 / (9 + 1 + 0.25) ** 0.5, 17**0.5 / 21**0.5, 1.0]
    assert beta == pytest.approx(1 - sum(cosines) / 3, abs=1e-6)


@pytest.mark.parametrize(
    ("beta", "concept", "style"), [(0.5, 2, 0), (0.533, 5, 2), (0.56, 8, 7), (0.6, 10, 10)]
)  # fmt: skip
def test_steps_are_those_of_the_specification(beta, concept, style):
    assert safree.last_step(beta, safree.CURVES["concept"]) == concept
    assert safree.last_step(beta, safree.CURVES["style"]) == style


def test_windows_of_words():
    assert windows("a red pizza", (1, 2, 3, 8)) == ["a red pizza", "a", "red", "pizza", "a red", "red pizza"]
    long = windows(" ".join("abcdefghijklm"), (1, 2, 3, 8))
    assert "a b c d e f g h" in long and "e f g h i j k l" in long and long[-1].endswith("m")


def test_threshold_by_hand():
    common = [0.1 * place for place in range(10)]  # 0.0 .. 0.9
    scores = {"about": [1.0, 0.95], "common": common, "kept": []}
    assert threshold(scores, 0.0, 0.0) == pytest.approx(0.9 + 0.1 * 0.05)
    assert threshold(scores, 0.1, 0.0) == pytest.approx(0.8 + 0.1 * 0.15)
    assert threshold({**scores, "kept": [0.97]}, 0.1, 0.0) == pytest.approx(0.97 + 0.1 * 0.03)
    assert threshold({**scores, "about": [0.5]}, 0.0, 0.0) == pytest.approx(0.901)


def test_cleaned_rows_stand_behind_the_empty_prompts_up_to_the_last_step_of_each():
    """Two pictures with guidance: rows 0 and 1 are the empty prompt's. The first is cleaned up to step 1, the second
    not at all."""
    guard = object.__new__(safree.Safree)
    guard.strength, guard.step, guard.rows, guard.guided = 1.0, 0, 2, True
    guard.cleaned, guard.until = torch.tensor([[[5.0]], [[6.0]]]), [1, -1]

    def passed(count):
        states = torch.arange(float(count))[:, None, None]
        given = guard._exchange(None, (), {"encoder_hidden_states": states})
        return None if given is None else given[1]["encoder_hidden_states"].flatten().tolist()

    assert [passed(4) for _ in range(3)] == [[0, 1, 5, 3], [0, 1, 5, 3], [0, 1, 2, 3]]
    guard.step, guard.guided = 0, False
    assert passed(2) == [5, 1]
    guard.strength = 0.0
    assert passed(2) is None


def test_steps_of_the_warm_up_are_plain_and_the_momentum_builds_up():
    """One picture: rows u, x, s. Steered from step 2 on, with what the two steps before it added up to."""
    guard = object.__new__(SafeLatentDiffusion)
    guard.settings, guard.strength = SafetySettings(2, 1000.0, 0.5, 0.5, 0.25), 1.0
    guard.rows, guard.step, guard.nu = 1, 0, None
    made = torch.tensor([[1.0], [0.0], [3.0]])  # d = -3: mu = 1, gamma = 2 + 0.5 nu
    passed = [guard._steer(None, (), (made,))[0].flatten().tolist() for _ in range(3)]
    # nu after the first step: 0.75 * 2; after the second: 0.25 * 1.5 + 0.75 * (2 + 0.75)
    assert passed == [[1.0, 0.0], [1.0, 0.0], [1.0, pytest.approx(-(2 + 0.5 * (0.25 * 1.5 + 0.75 * 2.75)))]]
