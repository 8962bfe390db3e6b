"""The accountant against the numbers of the specification and against exact propagation of Gaussians."""

from __future__ import annotations

import math
from statistics import NormalDist

import pytest

from erase_plugins.errors import RequestError
from erase_plugins.records import accountant as acc

L, N, LAM, BETA, SIGMA2 = 1.0, 1000, 0.01, 0.25, 4e-4


def rho(eta: float, present: float, absent: int = 0, distance: int = 2, group: int = 1) -> float:
    c = acc.contraction(eta, LAM, BETA)
    return acc.segment(c, acc.step_shift(L, eta, N, distance, group), 2 * eta * SIGMA2, present, absent)


def six(value: float):
    return pytest.approx(value, rel=5e-6)


PAPER, FAST = 1 / (2 * (LAM + BETA)), 1 / (LAM + BETA)
TABLE = {
    PAPER: (0.98076923, [0.004808, 0.047928, 0.223133, 0.370949, 0.495192], [0.47633, 0.335823, 0.0710325, 0.0101892]),
    FAST: (0.96153846, [0.009615, 0.094952, 0.369402, 0.471342, 0.490385], [0.453388, 0.223805, 0.00970964, 0.000192251]),
}  # fmt: skip


@pytest.mark.parametrize("eta", TABLE, ids=["paper", "fast"])
def test_numbers_of_the_specification(eta):
    c, growing, fading = TABLE[eta]
    assert acc.contraction(eta, LAM, BETA) == six(c)
    for steps, value in zip((1, 10, 50, 100, 1000), growing, strict=True):
        assert rho(eta, steps) == pytest.approx(value, abs=6e-7)
    for steps, value in zip((1, 10, 50, 100), fading, strict=True):
        assert rho(eta, math.inf, steps) == six(value)
    assert rho(eta, 100, 50) == six(0.05226995 if eta == PAPER else 0.00932901)
    limit = rho(eta, math.inf)
    assert acc.deletion_steps(limit, limit / 100, c) == (119 if eta == PAPER else 59)
    assert limit == pytest.approx(4 * L**2 * (2 - eta * LAM) / (4 * LAM * SIGMA2 * N**2), rel=1e-12)


def test_group_and_distance():
    assert rho(PAPER, 100, distance=1) == six(0.092737)
    assert rho(PAPER, 100, 7, group=2) == pytest.approx(4 * rho(PAPER, 100, 7), rel=1e-12)
    assert rho(PAPER, 0, 5) == 0


@pytest.mark.parametrize(("present", "absent"), [(1, 0), (50, 0), (500, 5), (3, 2)])
@pytest.mark.parametrize("c", [0.3, 0.9, 0.999])
def test_equality_for_a_quadratic_loss(present, absent, c):
    """One dimension, loss h w^2 / 2: mean difference and variance step by step."""
    shift, variance = 0.7, 0.3
    distance = spread = 0.0
    for step in range(present + absent):
        distance = c * distance + (shift if step < present else 0.0)
        spread = c * c * spread + variance
    assert acc.segment(c, shift, variance, present, absent) == pytest.approx(distance**2 / (2 * spread), rel=1e-12)


def test_more_steps_with_a_record_tell_more_and_steps_without_it_less():
    values = [rho(FAST, steps, 3) for steps in range(1, 60)]
    assert values == sorted(values)
    fading = [rho(FAST, 40, steps) for steps in range(60)]
    assert fading == sorted(fading, reverse=True)
    s, v = acc.step_shift(L, FAST, N), 2 * FAST * SIGMA2
    assert all(rho(FAST, steps) <= steps * s**2 / (2 * v) * (1 + 1e-12) for steps in range(1, 60))
    assert rho(FAST, 10**6) == pytest.approx(rho(FAST, math.inf), rel=1e-12)


@pytest.mark.parametrize(("c", "squares"), [(1.3, 5.335), (1.05, 4.238), (1.0, 3.6), (0.95, 2.830), (0.8, 0.8317)])
def test_factors_around_one(c, squares):
    """The closed form alone would say 4.845 for 1.3, which is too little."""
    assert 2 * acc.loose_segment(c, 1.0, 1.0, 6, 4) == pytest.approx(squares, rel=2e-4)
    assert acc.loose_segment(c, 1.0, 1.0, 0, 4) == 0


def test_no_contraction_is_refused():
    with pytest.raises(RequestError, match="does not contract"):
        acc.segment(1.0, 1, 1, 3)


@pytest.mark.parametrize(
    ("value", "eps", "adv"),
    [(0.01, 0.546, 0.056), (0.05, 1.308, 0.126), (0.125, 2.166, 0.197), (0.5, 4.728, 0.383), (1, 7.077, 0.520), (2, 10.725, 0.683)],
)  # fmt: skip
def test_conversions(value, eps, adv):
    assert acc.epsilon(value, 1e-5) == pytest.approx(eps, abs=6e-4)
    assert acc.advantage(value) == pytest.approx(adv, abs=6e-4)


def test_epsilon_is_the_best_over_a_grid_of_orders():
    value, delta = 0.37, 1e-6
    grid = [1 + 1.01**k * 1e-3 for k in range(2000)]
    best = min(q * value + math.log((q - 1) / q) - (math.log(delta) + math.log(q)) / (q - 1) for q in grid)
    assert acc.epsilon(value, delta) == pytest.approx(best, rel=1e-4)
    assert acc.epsilon(value, delta) <= best
    assert acc.epsilon(0.0, delta) == 0 == acc.advantage(0.0)


def test_noise_gives_the_leakage_that_was_asked_for():
    for eta in (PAPER, FAST, 2 / (2 * LAM + BETA), 1.9 / (LAM + BETA)):
        sigma2 = acc.noise_for(0.5, 3.0, LAM, BETA, eta, 77, 2)
        c = acc.contraction(eta, LAM, BETA)
        found = acc.segment(c, acc.step_shift(3.0, eta, 77, 2, 2), 2 * eta * sigma2, math.inf)
        assert found == pytest.approx(0.5, rel=1e-9)
    assert acc.noise_for(0.5, L, LAM, BETA, FAST, N) <= 2 * L**2 / (LAM * 0.5 * N**2)


def test_advantage_is_that_of_two_gaussians():
    mu = math.sqrt(2 * 0.3)
    normal = NormalDist()
    assert acc.advantage(0.3) == pytest.approx(normal.cdf(mu / 2) - normal.cdf(-mu / 2), rel=1e-12)
