"""Intervals: percentile bootstrap over pictures, the same resamples for every subject of a pair."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

RESAMPLES = 2000


def mean_interval(
    values: Sequence[float], seed: int = 0, level: float = 0.95, pictures: int | None = None
) -> tuple[float, float, float]:
    """Mean with its bootstrap interval.

    A share of exactly 0 or 1 has no spread to resample, so its open end is the rule of three, 3 / n.

    Args:
        values: one number per picture, or one share per group of pictures.
        seed: of the resampling.
        level: coverage.
        pictures: n of the rule of three where the values are shares of groups; 0 for values that are no shares.

    Returns:
        (mean, low, high); three NaN for no values.
    """
    data = np.asarray(values, dtype=np.float64)
    if data.size == 0:
        return (float("nan"),) * 3
    mean = float(data.mean())
    count = data.size if pictures is None else pictures
    if count and set(np.unique(data)) <= {0.0, 1.0} and mean in (0.0, 1.0):
        slack = min(3.0 / count, 1.0)
        return (mean, max(mean - slack, 0.0) if mean else 0.0, 1.0 if mean else slack)
    means = data[_resamples(data.size, seed)].mean(axis=1)
    tail = (1 - level) / 2
    return mean, float(np.quantile(means, tail)), float(np.quantile(means, 1 - tail))


def median_interval(values: Sequence[float], seed: int = 0) -> tuple[float, float, float]:
    """Median of at least one number with its 95 % bootstrap interval: (median, low, high)."""
    data = np.asarray(values, dtype=np.float64)
    medians = np.median(data[_resamples(data.size, seed)], axis=1)
    return float(np.median(data)), float(np.quantile(medians, 0.025)), float(np.quantile(medians, 0.975))


def paired_difference(before: Sequence[float], after: Sequence[float], seed: int = 0) -> tuple[float, float, float]:
    """Mean of after - before for the same prompts and seeds, with its interval.

    Where all pictures changed alike by -1, 0 or 1, there is no spread to resample: open ends are the rule of three.

    Raises:
        ValueError: lengths differ.
    """
    first, second = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    if first.shape != second.shape:
        raise ValueError(f"{first.size} and {second.size} values are not pairs")
    difference = second - first
    if difference.size == 0:
        return (float("nan"),) * 3
    if set(np.unique(difference)) in ({-1.0}, {0.0}, {1.0}):
        mean, slack = float(difference[0]), min(3.0 / difference.size, 1.0)
        return mean, max(mean - slack, -1.0), min(mean + slack, 1.0)
    means = difference[_resamples(difference.size, seed)].mean(axis=1)
    return float(difference.mean()), float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


def distance(before: Sequence[str], after: Sequence[str], seed: int = 0) -> tuple[float, float, float]:
    """Total-variation distance of two distributions of labels, of the same prompts and seeds, with its interval.

    Pairs are resampled. Where no pair of labels differs, or all mass moved, the open end is the rule of three.

    Raises:
        ValueError: lengths differ.
    """
    if len(before) != len(after):
        raise ValueError(f"{len(before)} and {len(after)} labels are not pairs")
    if not before:
        return (float("nan"),) * 3
    size, names = len(before), sorted({*before, *after})
    moved = np.zeros((size, len(names)))
    for place, (first, second) in enumerate(zip(before, after, strict=True)):
        moved[place, names.index(second)] += 1
        moved[place, names.index(first)] -= 1
    value, slack = float(np.abs(moved.mean(axis=0)).sum() / 2), min(3.0 / size, 1.0)
    if not moved.any():
        return value, 0.0, slack
    if set(before).isdisjoint(after):
        return value, 1.0 - slack, 1.0
    weights = np.zeros((RESAMPLES, size))
    np.add.at(weights, (np.arange(RESAMPLES)[:, None], _resamples(size, seed)), 1.0 / size)
    drawn = np.abs(weights @ moved).sum(axis=1) / 2
    low, high = (float(np.quantile(drawn, end)) for end in (0.025, 0.975))
    return value, min(low, value), max(high, value)


def _resamples(size: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, size, size=(RESAMPLES, size))
