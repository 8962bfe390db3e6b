"""The small-space solver against direct formulas (float64)."""

from __future__ import annotations

import pytest
import torch

from erase_plugins.artifacts.closed_form import (
    adversarial_map,
    best_factors,
    exact_factors,
    rece_step,
    solve_factors,
    solve_map,
)
from erase_plugins.errors import RequestError

D = 32


@pytest.fixture
def problem():
    generator = torch.Generator().manual_seed(0)

    def rows(n: int) -> torch.Tensor:
        return torch.randn(n, D, generator=generator, dtype=torch.float64)

    weights = [torch.randn(size, D, generator=generator, dtype=torch.float64) for size in (48, 64, 24)]
    return {"C": rows(3), "S": rows(3), "P": rows(5), "W": weights}


def direct(W, C, S, P, lam=0.5, e=1.0, p=1.0):
    """The textbook form, one layer."""
    eye = torch.eye(D, dtype=torch.float64)
    left = lam * W + e * (W @ S.T) @ C + p * (W @ P.T) @ P
    right = lam * eye + e * C.T @ C + p * P.T @ P
    return left @ torch.linalg.inv(right)


def solved(problem, lam=0.5, e=1.0, p=1.0):
    C, S, P = problem["C"], problem["S"], problem["P"]
    return solve_map(e * C.T @ C, e * S.T @ C, p * P.T @ P, lam)


def test_equals_the_direct_formula_with_one_map_for_all_layers(problem) -> None:
    K = solved(problem, e=0.7, p=0.3)
    for W in problem["W"]:
        expected = direct(W, problem["C"], problem["S"], problem["P"], e=0.7, p=0.3)
        assert float((W + W @ K - expected).norm() / expected.norm()) < 1e-10


def test_rank_is_that_of_the_erased_rows_whatever_is_kept(problem) -> None:
    problem["P"] = torch.randn(1000, D, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    values = torch.linalg.svdvals(solved(problem))
    assert int((values > 1e-10 * values[0]).sum()) == 3


def test_factors_multiply_to_the_map(problem) -> None:
    A, B = solve_factors(problem["C"], problem["S"], torch.ones(3), problem["P"].T @ problem["P"], 0.5)
    assert torch.allclose(B @ A, solved(problem), atol=1e-12)
    A, B = exact_factors(solved(problem))
    assert A.shape == (3, D)
    assert torch.allclose(B @ A, solved(problem), atol=1e-12)


def test_one_concept_moves_by_the_known_share() -> None:
    generator = torch.Generator().manual_seed(3)
    c, s = (torch.randn(D, generator=generator, dtype=torch.float64) for _ in range(2))
    e, lam = 0.8, 0.5
    K = solve_map(e * torch.outer(c, c), e * torch.outer(s, c), torch.zeros(D, D, dtype=torch.float64), lam)
    share = float(e * c @ c / (lam + e * c @ c))
    assert torch.allclose(c + K @ c, (1 - share) * c + share * s, atol=1e-12)


def test_drift_of_kept_rows_falls_with_their_weight(problem) -> None:
    drift = []
    for p in (0.1, 1.0, 10.0, 100.0):
        K = solved(problem, p=p)
        drift.append(float((problem["P"] @ K.T).norm() / problem["P"].norm()))
    assert drift[0] > 5 * drift[1] > 25 * drift[2] > 125 * drift[3]


def test_no_scale_or_same_guide_changes_nothing(problem) -> None:
    assert torch.equal(solved(problem, e=0.0), torch.zeros(D, D, dtype=torch.float64))
    problem["S"] = problem["C"]
    assert float(solved(problem).abs().max()) == 0.0


def test_permutation_and_duplicates(problem) -> None:
    plain = solved(problem)
    order = [2, 0, 1]
    shuffled = {**problem, "C": problem["C"][order], "S": problem["S"][order]}
    assert torch.allclose(solved(shuffled), plain, atol=1e-12)
    twice = {**problem, "C": problem["C"].repeat(2, 1), "S": problem["S"].repeat(2, 1)}
    assert torch.allclose(solved(twice), solved(problem, e=2.0), atol=1e-12)


def test_truncation_error_is_the_sum_of_the_discarded_eigenvalues(problem) -> None:
    K = solved(problem)
    sigma = sum(W.T @ W for W in problem["W"])
    A, B, error = best_factors(K, sigma, 2)
    exact = sum(float((W @ K).norm() ** 2) for W in problem["W"])
    left = sum(float((W @ (K - B @ A)).norm() ** 2) for W in problem["W"])
    assert error == pytest.approx((left / exact) ** 0.5, rel=1e-9)
    per_layer = sum(float((torch.linalg.svdvals(W @ K)[2:] ** 2).sum()) for W in problem["W"])
    assert left >= per_layer - 1e-12


def test_a_plainly_truncated_map_errs_by_at_most_the_first_dropped_singular_value(problem) -> None:
    """|W (K - K_r)|_2 <= |W|_2 sigma_{r+1}, in every layer."""
    K = solved(problem)
    A, B, _ = best_factors(K, torch.eye(D, dtype=torch.float64), 2)
    dropped = float(torch.linalg.svdvals(K)[2])
    assert dropped > 0
    assert float(torch.linalg.svdvals(K - B @ A)[0]) == pytest.approx(dropped, rel=1e-9)
    for W in problem["W"]:
        assert float(torch.linalg.svdvals(W @ (K - B @ A))[0]) <= float(torch.linalg.svdvals(W)[0]) * dropped


def test_lam_must_be_positive(problem) -> None:
    with pytest.raises(RequestError, match="lam"):
        solved(problem, lam=0.0)


class TestRece:
    def start(self, problem, lam=0.5):
        eye = torch.eye(D, dtype=torch.float64)
        sigma = sum(W.T @ W for W in problem["W"])
        C, S = problem["C"], problem["S"]
        return eye + solved(problem, lam=lam), sigma, C.T @ C, S.T @ C, 0.1 * problem["P"].T @ problem["P"]

    def test_adversarial_row_is_the_minimiser(self, problem) -> None:
        M, sigma, *_ = self.start(problem)
        lr, c = 0.1, problem["C"][0]

        def objective(x: torch.Tensor) -> torch.Tensor:
            return sum(((W @ M @ x - W @ c) ** 2).sum() for W in problem["W"]) + lr * (x @ x)

        best = (adversarial_map(M, sigma, lr) @ c).requires_grad_()
        loss = objective(best)
        (gradient,) = torch.autograd.grad(loss, best)
        assert float(gradient.norm()) < 1e-8 * loss.item()
        assert loss.item() <= float(objective(c))

    def test_limits_of_the_regulariser(self, problem) -> None:
        _, sigma, *_ = self.start(problem)
        eye = torch.eye(D, dtype=torch.float64)
        assert torch.allclose(adversarial_map(eye, sigma, 1e-12), eye, atol=1e-9)
        assert float((adversarial_map(eye, sigma, 1e9) - sigma / 1e9).abs().max()) < 1e-9

    def test_recursion_equals_the_loop_over_layers(self, problem) -> None:
        M, sigma, G, X, H = self.start(problem)
        found = rece_step(M, sigma, G, X, H, 0.1, 0.1)
        eye = torch.eye(D, dtype=torch.float64)
        weights = [W @ M for W in problem["W"]]
        A = sum(W.T @ W for W in weights)
        cross = sum(new.T @ old for new, old in zip(weights, problem["W"], strict=True))
        attack = problem["C"] @ torch.linalg.solve(0.1 * eye + A, cross).T
        for W, new in zip(problem["W"], weights, strict=True):
            left = new @ (0.1 * eye + H) + (new @ problem["S"].T) @ attack
            right = 0.1 * eye + H + attack.T @ attack
            expected = left @ torch.linalg.inv(right)
            assert float((W @ found - expected).norm() / expected.norm()) < 1e-9

    def test_the_attack_works_before_an_epoch_and_not_after(self, problem) -> None:
        M, sigma, G, X, H = self.start(problem)
        C, S = problem["C"], problem["S"]
        attack = C @ adversarial_map(M, sigma, 0.1).T

        def gap(rows: torch.Tensor, goal: torch.Tensor, current: torch.Tensor) -> float:
            return sum(float((W @ (current @ rows.T - goal.T)).norm() ** 2) for W in problem["W"]) ** 0.5

        assert gap(attack, C, M) < gap(C, C, M)
        after = rece_step(M, sigma, G, X, H, 0.1, 0.1)
        before_distance = sum(float((W @ M @ (attack - S).T).norm() ** 2) for W in problem["W"]) ** 0.5
        after_distance = sum(float((W @ (after @ attack.T - M @ S.T)).norm() ** 2) for W in problem["W"]) ** 0.5
        assert after_distance < 0.25 * before_distance

    def test_holding_keeps_the_first_erasure(self, problem) -> None:
        M, sigma, G, X, H = self.start(problem)
        heavy = 100 * H
        plain, held = (rece_step(M, sigma, G, X, heavy, 0.1, 0.1, hold=hold) for hold in (False, True))
        C = problem["C"]
        distance = [float((C @ (K - M).T).norm()) for K in (plain, held)]
        assert distance[1] < 0.5 * distance[0]

    def test_adversarial_rows_without_weight_change_nothing(self, problem) -> None:
        M, sigma, G, X, H = self.start(problem)
        assert torch.allclose(rece_step(M, sigma, G, X, H, 0.1, 0.1, True, 0.0), M, atol=1e-10)
        half, full = (rece_step(M, sigma, G, X, H, 0.1, 0.1, True, weight) for weight in (0.5, 1.0))
        assert 0 < float((half - M).norm()) < float((full - M).norm())

    def test_bad_regulariser(self, problem) -> None:
        M, sigma, G, X, H = self.start(problem)
        with pytest.raises(RequestError, match="regular_scale"):
            rece_step(M, sigma, G, X, H, 0.0, 0.1)
