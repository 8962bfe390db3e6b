"""Intervals."""

from __future__ import annotations

import math

import pytest

from erase_plugins.evaluation.bootstrap import mean_interval, paired_difference


def test_interval_contains_the_mean_and_narrows_with_n() -> None:
    few, many = mean_interval([0, 1] * 8), mean_interval([0, 1] * 200)
    assert few[0] == many[0] == 0.5
    assert few[1] < many[1] < 0.5 < many[2] < few[2]


def test_all_or_none_gets_the_rule_of_three() -> None:
    assert mean_interval([0] * 30) == (0.0, 0.0, pytest.approx(0.1))
    assert mean_interval([1] * 30) == (1.0, pytest.approx(0.9), 1.0)


def test_nothing_measured_is_nan() -> None:
    assert all(math.isnan(value) for value in mean_interval([]))


def test_pairs_see_through_common_variation() -> None:
    base = [0, 1] * 50
    mean, low, high = paired_difference(base, base)
    assert (mean, low, high) == (0.0, 0.0, 0.0)
    mean, low, high = paired_difference(base, [0] * 100)
    assert mean == -0.5
    assert low < -0.4 > high - 0.05
    with pytest.raises(ValueError, match="pairs"):
        paired_difference([1], [1, 0])


def test_shares_of_groups_count_all_their_pictures() -> None:
    assert mean_interval([0.0, 0.0], pictures=60) == (0.0, 0.0, pytest.approx(0.05))
    assert mean_interval([0.0, 0.0], pictures=0) == (0.0, 0.0, 0.0)
