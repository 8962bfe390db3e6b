"""SPEED's closed form against its published expression and the numbers of an independent calculation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from erase_plugins.artifacts.closed_form import solve_factors, solve_map
from erase_plugins.artifacts.free_space import free_basis, free_factors, free_map
from erase_plugins.errors import RequestError

D, N_ROWS, TAU = 64, 4, 1e-8


@pytest.fixture(scope="module")
def draw() -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(0)
    base = rng.normal(size=(64, 40)) / np.sqrt(40)
    found = {"R": base @ rng.normal(size=(40, 200))}
    found |= {name: rng.normal(size=(64, 4)) for name in "CSN"}
    found["W"] = rng.normal(size=(48, 64)) / 8
    return {name: torch.from_numpy(value) for name, value in found.items()}


def basis_of(R: torch.Tensor) -> torch.Tensor:
    return free_basis(R @ R.T / R.shape[1], TAU)


def solve(draw, rho: float, lam: float, rows=(0, 1, 2, 3), invariants=None, R=None, n: int | None = None):
    """D for some of the four concepts; n rho is that of n concepts."""
    C = draw["C"][:, list(rows)]
    N = draw["N"] if invariants is None else invariants
    n = C.shape[1] if n is None else n
    basis = basis_of(draw["R"] if R is None else R)
    stiffness = n / lam if lam else float("inf")
    return free_factors(C.T, torch.ones(C.shape[1]), basis, N @ N.T, n * rho, stiffness)


def change(draw, D: torch.Tensor, rows=(0, 1, 2, 3)) -> torch.Tensor:
    return draw["W"] @ (draw["S"] - draw["C"])[:, list(rows)] @ D


def residual(draw, dW: torch.Tensor, rows=(0, 1, 2, 3)) -> float:
    """Mean share of the way to the guide that is left."""
    C, S, W = (draw[name] for name in "CSW")
    left = (W + dW) @ C - W @ S
    return float((left.norm(dim=0) / (W @ (S - C)).norm(dim=0))[list(rows)].mean())


def together(draw, dW: torch.Tensor, rows=(0, 1, 2, 3)) -> float:
    """What is left of the way of all these concepts, as one norm."""
    C, S, W = draw["C"][:, list(rows)], draw["S"][:, list(rows)], draw["W"]
    return float(((W + dW) @ C - W @ S).norm() / (W @ (S - C)).norm())


def drift(draw, dW: torch.Tensor, rows: torch.Tensor) -> float:
    return float((dW @ rows).norm() / (draw["W"] @ rows).norm())


@pytest.mark.parametrize(("lam", "rho"), [(0.0, 1.0), (0.5, 1.0), (0.5, 0.125)])
def test_the_published_form(draw, lam, rho) -> None:
    C, S, N, W = (draw[name] for name in "CSNW")
    U = basis_of(draw["R"])
    assert U.shape[1] == 24
    eye, Pi = torch.eye(D, dtype=torch.float64), U @ U.T
    A, X = C @ C.T / 4, S @ C.T / 4
    T = torch.linalg.inv(A @ Pi + rho * eye)
    inner = torch.linalg.inv(N.T @ Pi @ T @ N + lam * torch.eye(4, dtype=torch.float64))
    official = W @ (X - A) @ Pi @ (eye - T @ N @ inner @ N.T @ Pi) @ T
    ours = change(draw, solve(draw, rho, lam))
    assert float((ours - official).norm() / official.norm()) < 1e-12
    assert int(torch.linalg.matrix_rank(ours)) == 4
    stiffness = 4 / lam if lam else float("inf")
    K = free_map(C @ C.T, S @ C.T, U, N @ N.T, 4 * rho, stiffness)
    assert float((W @ K - official).norm() / official.norm()) < 1e-12


def test_drift(draw) -> None:
    hard, soft = (change(draw, solve(draw, 1.0, lam)) for lam in (0.0, 0.5))
    assert drift(draw, hard, draw["R"]) < 1e-14
    assert drift(draw, soft, draw["R"]) < 1e-14
    assert drift(draw, hard, draw["N"]) < 1e-14
    assert drift(draw, soft, draw["N"]) == pytest.approx(2.01e-2, rel=5e-3)


@pytest.mark.parametrize(
    ("rho", "left"), [(1, 0.205), (0.125, 0.0338), (0.05, 0.0139), (0.01, 0.00283), (1e-3, 0.000284)]
)
def test_residual(draw, rho, left) -> None:
    assert residual(draw, change(draw, solve(draw, rho, 0.0))) == pytest.approx(left, rel=5e-3)


@pytest.mark.parametrize(
    ("p", "left", "moved"),
    [(0, 0.00877, 0.384), (0.1, 0.0272, 0.0306), (1, 0.0327, 0.00477), (10, 0.0336, 0.000513), (100, 0.0338, 5.17e-5)],
)
def test_uce_on_the_way_to_the_limit(draw, p, left, moved) -> None:
    C, S, N, R = (draw[name] for name in "CSNR")
    kept = torch.cat([R, N], dim=1)
    A, B = solve_factors(C.T, S.T, torch.ones(4), p * kept @ kept.T, 0.5)
    dW = draw["W"] @ B @ A
    assert residual(draw, dW) == pytest.approx(left, rel=6e-3)
    assert drift(draw, dW, R) == pytest.approx(moved, rel=6e-3)


@pytest.mark.parametrize(("p", "apart"), [(10, 5.2e-3), (100, 5.3e-4), (1e3, 5.3e-5), (1e4, 5.3e-6)])
def test_the_limit_is_ours(draw, p, apart) -> None:
    kept = torch.cat([draw["R"], draw["N"]], dim=1)
    A, _ = solve_factors(draw["C"].T, draw["S"].T, torch.ones(4), p * kept @ kept.T, 0.5)
    ours = solve(draw, 0.125, 0.0)
    assert float((A - ours).norm() / ours.norm()) == pytest.approx(apart, rel=2e-2)


def test_rows_are_a_dual_basis(draw) -> None:
    near = solve(draw, 1e-13, 0.0) @ draw["C"]
    assert float((near - torch.eye(4, dtype=torch.float64)).abs().max()) < 1e-10


def test_adapters_that_know_of_each_other_can_be_stacked(draw) -> None:
    """Each pair is solved with the other pair's rows among its invariants; n rho is that of all four."""
    pairs = [(0, 1), (2, 3)]
    others = [torch.cat([draw["N"], draw["C"][:, list(pair)]], dim=1) for pair in reversed(pairs)]

    def stacked(invariants) -> float:
        parts = (
            change(draw, solve(draw, 0.125, 0.0, pair, other, n=4), pair)
            for pair, other in zip(pairs, invariants, strict=True)
        )
        return together(draw, sum(parts))

    assert stacked(others) == pytest.approx(0.033, abs=5e-4)
    assert stacked([draw["N"], draw["N"]]) == pytest.approx(0.50, abs=5e-3)


def test_revoking_the_fourth_concept(draw) -> None:
    """A dropped row, a new solve, and a new solve with the concept among the invariants; n rho stays."""
    three = (0, 1, 2)
    gone = draw["C"][:, 3:]
    own = draw["W"] @ (draw["S"] - draw["C"])[:, 3:]

    def both(dW):
        return together(draw, dW, three), float((dW @ gone).norm() / own.norm())

    whole = solve(draw, 0.125, 0.0)
    assert both(change(draw, whole[:3], three)) == pytest.approx((0.0356, 0.0197), rel=6e-3)
    again = solve(draw, 0.125 * 4, 0.0, three, n=1)
    assert both(change(draw, again, three)) == pytest.approx((0.0305, 0.8088), rel=6e-3)
    kept = solve(draw, 0.125 * 4, 0.0, three, torch.cat([draw["N"], gone], dim=1), n=1)
    left, moved = both(change(draw, kept, three))
    assert left == pytest.approx(0.0357, rel=6e-3)
    assert moved < 1e-12


def test_capacity_ends_hard(draw) -> None:
    found = {}
    for k in (0, 40, 48, 52, 56, 58):
        rng = np.random.default_rng(1)
        base = rng.normal(size=(64, k)) / np.sqrt(max(k, 1))
        R = torch.from_numpy(base @ rng.normal(size=(k, 200)))
        found[64 - k] = together(draw, change(draw, solve(draw, 1e-9, 0.0, R=R)))
    assert all(left < 1e-8 for f, left in found.items() if f >= 8)
    assert found[6] > 0.5


def test_the_scale_of_the_encoder_does_not_matter(draw) -> None:
    """tau and rho in units of the rows' mean energy: ten times larger embeddings give D / 10, the same edit."""

    def relative(scale: float) -> torch.Tensor:
        R, C, N = (draw[name] * scale for name in "RCN")
        rho = 0.125 * float((R @ R.T / 200).trace()) / D
        return free_factors(C.T, torch.ones(4), basis_of(R), N @ N.T, 4 * rho, float("inf"))

    one, ten = relative(1.0), relative(10.0)
    assert float((ten * 10 - one).norm() / one.norm()) < 1e-12


def test_refuses_what_leaves_nothing_free(draw) -> None:
    basis = draw["N"] @ torch.linalg.inv(torch.linalg.cholesky(draw["N"].T @ draw["N"]).T)
    with pytest.raises(RequestError, match="no direction"):
        free_factors(draw["C"].T, torch.ones(4), basis, draw["N"] @ draw["N"].T, 1.0, float("inf"))
    with pytest.raises(RequestError, match="positive"):
        free_factors(draw["C"].T, torch.ones(4), basis, draw["N"] @ draw["N"].T, 0.0, 1.0)


def test_soft_rows_in_all_directions_are_uce() -> None:
    generator = torch.Generator().manual_seed(0)
    C, S, R = (torch.randn(count, 16, generator=generator, dtype=torch.float64) for count in (3, 3, 40))
    G, X, H = C.T @ C, S.T @ C, R.T @ R
    none = torch.zeros(16, 16, dtype=torch.float64)
    found = free_map(G, X, torch.eye(16, dtype=torch.float64), none, 0.5, 1.0, 0.1 * H)
    assert torch.allclose(found, solve_map(G, X, 0.1 * H, 0.5), atol=1e-12)
    factors = free_factors(C, torch.ones(3), torch.eye(16, dtype=torch.float64), none, 0.5, 1.0, 0.1 * H)
    assert torch.allclose((S - C).T @ factors, found, atol=1e-12)
