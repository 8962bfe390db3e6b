"""Thresholds from curves of several sizes: where they cross, and a fit of the finite-size scaling, with bootstraps."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import curve_fit

Curves = Mapping[int, NDArray[np.float64]]
#: gives curves of one resampled experiment
Resample = Callable[[np.random.Generator], Curves]
_SMALL = 8


@dataclass(frozen=True)
class Threshold:
    """A measured threshold: ``method`` is "crossing" or "fit", the interval holds 95 % of the bootstrap."""

    method: str
    value: float
    low: float
    high: float
    sizes: tuple[int, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {**asdict(self), "sizes": list(self.sizes)}


def crossing(grid: NDArray[np.float64], small: NDArray[np.float64], large: NDArray[np.float64]) -> float | None:
    """Where the curve of the larger size overtakes that of the smaller one, linear between points; None if nowhere.

    Below threshold the larger size fails less. Of several crossings (noise where both curves are flat at 0 or 1) the
    one with the steepest difference counts.
    """
    ahead = large - small
    places = [i for i in range(len(grid) - 1) if ahead[i] < 0 <= ahead[i + 1]]
    if not places:
        return None
    window = max(1, len(grid) // 20)
    best = max(places, key=lambda i: ahead[min(i + 1 + window, len(grid) - 1)] - ahead[max(i - window, 0)])
    step = ahead[best + 1] - ahead[best]
    return float(grid[best] - ahead[best] * (grid[best + 1] - grid[best]) / step)


def scaling_fit(grid: NDArray[np.float64], curves: Curves, shots: int, near: float) -> float | None:
    """The threshold of the fit P = A + B x + C x^2 with x = (p - p_th) L^(1/nu); None if it does not settle.

    Args:
        near: crossing around which (12 % on both sides) points are used, weighted by their binomial variance; those
            where a curve bends towards 0 or 1 are left out, a parabola cannot follow them.
    """
    used = {size: (np.abs(grid / near - 1) <= 0.12) & (curve > 0.15) & (curve < 0.8) for size, curve in curves.items()}
    if min(chosen.sum() for chosen in used.values()) < 3:
        return None
    points = np.concatenate(
        [np.stack([grid[chosen], np.full(chosen.sum(), float(size))]) for size, chosen in used.items()], 1
    )
    values = np.concatenate([curve[used[size]] for size, curve in curves.items()])
    spread = np.sqrt(np.clip(values * (1 - values), 1e-4, None) / shots)

    def model(point: NDArray[np.float64], at: float, nu: float, a: float, b: float, c: float) -> NDArray[np.float64]:
        x = (point[0] - at) * point[1] ** (1 / nu)
        return np.asarray(a + b * x + c * x**2)

    first, chosen = next((curves[size], chosen) for size, chosen in used.items())
    slope = np.polyfit(grid[chosen], first[chosen], 1)[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an undetermined covariance is told by None below
        try:
            found, _ = curve_fit(model, points, values, p0=(near, 0.9, 0.4, slope / 5, 0.0), sigma=spread, maxfev=4000)
        except RuntimeError:
            return None
    return float(found[0]) if 0.7 * near < found[0] < 1.3 * near else None


def thresholds(
    grid: NDArray[np.float64], curves: Curves, shots: int, resample: Resample, seed: np.random.SeedSequence,
    bootstrap: int = 200, fit: bool = True,
) -> tuple[list[Threshold], list[str]]:  # fmt: skip
    """Crossings of neighbouring sizes, of the smallest with the largest, and the fit; with warnings in words.

    Never extrapolates: a pair that does not cross inside the grid has no threshold.
    """
    sizes = sorted(curves)
    if len(sizes) < 2:
        return [], ["a threshold needs at least two sizes"]
    pairs = list(dict.fromkeys([*itertools.pairwise(sizes), (sizes[0], sizes[-1])]))
    notes = (
        []
        if sizes[-1] >= _SMALL
        else [f"largest size {sizes[-1]}: crossings of tori below {_SMALL} are not thresholds"]
    )
    rng = np.random.default_rng(seed)
    again = [resample(rng) for _ in range(bootstrap)]
    found = []
    for small, large in pairs:
        value = crossing(grid, curves[small], curves[large])
        if value is None:
            notes.append(f"no crossing of sizes {small} and {large} in {grid[0]:.4g}..{grid[-1]:.4g}; widen the range")
            continue
        found.append(
            _with_interval(
                "crossing", value, [crossing(grid, item[small], item[large]) for item in again], (small, large)
            )
        )
    if found and fit:
        near = found[-1].value
        value = scaling_fit(grid, curves, shots, near)
        if value is not None:
            fits = [scaling_fit(grid, item, shots, near) for item in again[: min(bootstrap, 100)]]
            found.append(_with_interval("fit", value, fits, tuple(sizes)))
    return found, notes


def _with_interval(method: str, value: float, values: list[float | None], sizes: tuple[int, ...]) -> Threshold:
    numbers = np.array([item for item in values if item is not None])
    low, high = np.quantile(numbers, [0.025, 0.975]) if len(numbers) else (value, value)
    return Threshold(method, value, float(min(low, value)), float(max(high, value)), sizes)
