"""Intervals."""

from __future__ import annotations

import math
import random

import pytest

from erase_plugins.evaluation.bootstrap import mean_interval, paired_difference


def test_interval_contains_the_mean_and_narrows_with_n() -> None:
    few, many = mean_interval([0, 1] * 8), mean_interval([0, 1] * 200)
    assert few[0] == many[0] == 0.5
    assert few[1] < many[1] < 0.5 < many[2] < few[2]


def test_all_or_none_gets_the_rule_of_three() -> None:
    assert mean_interval([0] * 30) == (0.0, 0.0, pytest.approx(0.1))
    assert mean_interval([1] * 30) == (1.0, pytest.approx(0.9), 1.0)


def binomial_quantile(n: int, p: float, q: float) -> float:
    """Smallest share k / n with P(X <= k) >= q for X binomial: the means of resamples of n zeros and ones."""
    total = 0.0
    for k in range(n + 1):
        total += math.comb(n, k) * p**k * (1 - p) ** (n - k)
        if total >= q:
            return k / n
    raise AssertionError


@pytest.mark.parametrize("level", [0.5, 0.8, 0.95])
def test_the_interval_of_a_share_has_the_quantiles_of_the_binomial_law(level) -> None:
    """400 pictures, 120 of them 1. Neighbouring levels are 0.007 and more apart."""
    mean, low, high = mean_interval([1] * 120 + [0] * 280, level=level)
    assert mean == 0.3
    tail = (1 - level) / 2
    assert low == pytest.approx(binomial_quantile(400, 0.3, tail), abs=0.003)
    assert high == pytest.approx(binomial_quantile(400, 0.3, 1 - tail), abs=0.003)


def test_the_interval_of_a_difference_has_them_too() -> None:
    """100 of 400 pairs lose what they had: the differences are -1 with share 1/4, else 0."""
    mean, low, high = paired_difference([1] * 200 + [0] * 200, [1] * 100 + [0] * 300)
    assert mean == -0.25
    assert low == pytest.approx(-binomial_quantile(400, 0.25, 0.975), abs=0.003)
    assert high == pytest.approx(-binomial_quantile(400, 0.25, 0.025), abs=0.003)


def test_nineteen_of_twenty_intervals_hold_the_truth() -> None:
    """500 measurements of a share that is known: as many intervals without it as chance allows, 1 in 20."""
    draw, share, count = random.Random(7), 0.3, 100
    inside = 0
    for number in range(500):
        _, low, high = mean_interval([int(draw.random() < share) for _ in range(count)], number)
        inside += low <= share <= high
    assert 0.93 <= inside / 500 <= 0.97


def test_a_difference_that_all_pictures_share_is_not_certain() -> None:
    assert paired_difference([1] * 30, [0] * 30) == (-1.0, -1.0, pytest.approx(-0.9))
    assert paired_difference([0] * 30, [1] * 30) == (1.0, pytest.approx(0.9), 1.0)
    assert paired_difference([1, 0], [1, 0]) == (0.0, -1.0, 1.0)


def test_nothing_measured_is_nan() -> None:
    assert all(math.isnan(value) for value in mean_interval([]))


def test_pairs_see_through_common_variation() -> None:
    base = [0, 1] * 50
    mean, low, high = paired_difference(base, base)
    assert (mean, low, high) == (0.0, -0.03, 0.03)
    mean, low, high = paired_difference(base, [0] * 100)
    assert mean == -0.5
    assert low < -0.4 > high - 0.05
    with pytest.raises(ValueError, match="pairs"):
        paired_difference([1], [1, 0])


def test_shares_of_groups_count_all_their_pictures() -> None:
    assert mean_interval([0.0, 0.0], pictures=60) == (0.0, 0.0, pytest.approx(0.05))
    assert mean_interval([0.0, 0.0], pictures=0) == (0.0, 0.0, 0.0)
