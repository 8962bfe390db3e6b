"""A study: one network under one kind of noise at several sizes, from options to a result record."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from erase_fbqc import __version__, matching, percolation, published
from erase_fbqc.network import NETWORKS, SyndromeGraph, check_size, syndrome_graph
from erase_fbqc.noise import Optics, parse_code, probability, tolerated_failure, tolerated_loss
from erase_fbqc.threshold import Threshold, thresholds
from erase_plugins.errors import RequestError

NOISES = ("erasure", "error", "mixed", "optics")
VARIED = ("loss", "failure")
#: code distances that settle a threshold in seconds; matching costs more than percolation, so its tori are smaller
SIZES = {"erasure": (8, 12, 16), "optics": (8, 12, 16), "error": (6, 8, 10), "mixed": (6, 8)}
FEWEST_SHOTS = 100
_MOST_BYTES = 2 << 30
#: called with (stage, done, total)
Progress = Callable[[str, int, int], None]
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Study:
    """What to simulate. Rates are chances in 0..1.

    Attributes:
        network: "6ring" or "4star".
        noise: "erasure", "error" (flips), "mixed" (erasures varied at a fixed ``error`` rate) or "optics" (photon loss
            or fusion failure varied, through ``optics``).
        sizes: code distances L; None takes `SIZES` of the noise.
        shots: per size (erasure, optics), per size and rate (error); erasure patterns of 20 error samples (mixed).
        low, high, points: range of the varied rate; chosen around the published threshold if None.
        error: fixed error rate of "mixed".
        optics, vary: the fusion, and whether its loss (per fusion) or its failure rate is varied.
        geometry: "cells" or "rotated".
        seed, bootstrap: randomness, and the number of resampled experiments for intervals.

    Raises:
        RequestError: a value that cannot be simulated.
    """

    network: str = "6ring"
    noise: str = "erasure"
    sizes: tuple[int, ...] | None = None
    shots: int | None = None
    low: float | None = None
    high: float | None = None
    points: int | None = None
    error: float = 0.005
    optics: Optics = field(default_factory=Optics)
    vary: str = "loss"
    geometry: str = "cells"
    seed: int = 0
    bootstrap: int = 200

    def __post_init__(self) -> None:
        for name, value, known in (
            ("network", self.network, NETWORKS),
            ("noise", self.noise, NOISES),
            ("vary", self.vary, VARIED),
        ):
            if value not in known:
                raise RequestError(f"{name} '{value}' is unknown; known: {', '.join(known)}")
        if not self.distances:
            raise RequestError("no size was given; for example 6,8,12")
        for size in self.distances:
            check_size(size, self.geometry)
        if len(set(self.distances)) < len(self.distances):
            raise RequestError(f"sizes {', '.join(map(str, self.distances))}: one is given twice")
        if self.shots is not None and self.shots < FEWEST_SHOTS:
            raise RequestError(f"{self.shots} shots: at least {FEWEST_SHOTS} are needed for an interval")
        if self.count * len(self.distances) * 12 > _MOST_BYTES:
            raise RequestError(
                f"{self.count} shots need {self.count * len(self.distances) * 12 >> 20} MB; the limit is 2048 MB"
            )
        if not 1 <= self.bootstrap <= 10_000:
            raise RequestError(f"bootstrap {self.bootstrap}: a number from 1 to 10000 is needed")
        if self.seed < 0:
            raise RequestError(f"seed {self.seed}: a number from 0 upwards is needed")
        if self.noise in ("mixed",) and not 0 < self.error < 0.5:
            raise RequestError(f"error rate {self.error!r}: it lies between 0 and 1/2, both excluded")
        low, high = self.range
        probability(low, "low end of the range")
        probability(high, "high end of the range")
        if not low < high or (self.noise == "error" and not (low > 0 and high < 0.5)):
            raise RequestError(
                f"range {low:g}..{high:g}: it has to rise{' inside 0..1/2' if self.noise == 'error' else ''}"
            )
        if self.points is not None and self.points < 3:
            raise RequestError(f"{self.points} points: at least 3 are needed to see a crossing")
        syndrome_graph(self.network, self.distances[0], self.geometry)

    @property
    def distances(self) -> tuple[int, ...]:
        """The sizes, settled."""
        return SIZES[self.noise] if self.sizes is None else self.sizes

    @property
    def count(self) -> int:
        """Shots (or patterns)."""
        return self.shots if self.shots is not None else FEWEST_SHOTS if self.noise == "mixed" else 4000

    @property
    def expected(self) -> float:
        """Where the threshold is looked for, from the published ones."""
        erasure = published.outcome_threshold(self.network)
        if self.noise == "error":
            return published.outcome_threshold(self.network, "error")
        if self.noise == "mixed":  # the straight line between both published thresholds
            return max(erasure * (1 - self.error / published.outcome_threshold(self.network, "error")), 0.004)
        if self.noise == "erasure":
            return erasure
        solve = tolerated_loss if self.vary == "loss" else tolerated_failure
        return min(solve(self.optics, erasure) or 0.02, 0.79)

    @property
    def range(self) -> tuple[float, float]:
        """Ends of the varied rate."""
        wide = 0.25 if self.noise in ("erasure", "error") else 0.4
        low = self.low if self.low is not None else (1 - wide) * self.expected
        return low, self.high if self.high is not None else min((1 + wide) * self.expected, 1.0)

    def grid(self) -> Array:
        """The values of the varied rate."""
        return np.linspace(*self.range, self.points or (9 if self.noise in ("error", "mixed") else 201))

    def edge_rates(self, values: Array) -> Array:
        """Erasure rates of cubic and diagonal edges at values of the varied rate, (2, values)."""
        if self.noise != "optics":
            return np.stack([values, values])
        fail = values if self.vary == "failure" else None
        return self.optics.edge_rates(self.network, values if fail is None else np.zeros_like(values), fail)

    @property
    def uniform(self) -> bool:
        """Whether all edges are erased alike, so that one order of edges serves every rate."""
        rates = self.edge_rates(self.grid())
        return bool(np.allclose(rates[0], rates[1], rtol=1e-12, atol=0))

    def seconds(self) -> float:
        """Rough cost on one core, from rates measured on an ordinary one."""
        edges = sum(syndrome_graph(self.network, size, self.geometry).edges for size in self.distances)
        each = {"erasure": 5e-9, "optics": 5e-9 if self.uniform else 1.5e-7, "error": 4e-8, "mixed": 4e-6}[self.noise]
        return each * edges * self.count * (len(self.grid()) if self.noise in ("error", "mixed") else 1) + 1.0

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form with the settled values."""
        low, high = self.range
        return {
            **asdict(self), "sizes": list(self.distances), "shots": self.count, "low": low, "high": high,
            "points": len(self.grid()), "optics": asdict(self.optics) if self.noise == "optics" else None,
        }  # fmt: skip


@dataclass
class Result:
    """What came out: per size the failure rate ``any`` along ``grid``, thresholds, and the samples they came from."""

    study: Study
    grid: Array
    curves: dict[int, Array]
    guess: dict[int, Array]
    samples: dict[int, NDArray[Any]]
    thresholds: list[Threshold]
    notes: list[str]
    seconds: float

    @property
    def best(self) -> Threshold | None:
        """The crossing of the smallest with the largest size, or of the widest pair that crosses; never a fit."""
        found = [item for item in self.thresholds if item.method == "crossing"]
        return max(found, key=lambda item: (item.sizes[-1], -item.sizes[0])) if found else None


def run(study: Study, threads: int | None = None, progress: Progress | None = None) -> Result:
    """Simulates a study; equal for every number of threads.

    Raises:
        RequestError: see `Study`.
        MissingMatching: errors without PyMatching.
    """
    if study.noise in ("error", "mixed"):
        matching.matching_library()
    started, grid = time.perf_counter(), study.grid()
    curves: dict[int, Array] = {}
    guess: dict[int, Array] = {}
    samples: dict[int, NDArray[Any]] = {}
    seeds = np.random.SeedSequence(study.seed).spawn(2)
    for size in study.distances:
        graph = syndrome_graph(study.network, size, study.geometry)
        # by size, not by place in the list: adding a size leaves the others as they were
        seed = np.random.SeedSequence(entropy=study.seed, spawn_key=(size,))
        shown = None if progress is None else _stage(progress, f"L = {size}")
        samples[size] = _sample(study, graph, grid, seed, threads, shown)
        curves[size], extra = _curve(study, graph, grid, samples[size])
        if extra is not None:
            guess[size] = extra
    found, notes = thresholds(
        grid, curves, study.count, lambda rng: _resampled(study, grid, samples, rng), seeds[1], study.bootstrap,
        fit=study.noise in ("erasure", "error"),
    )  # fmt: skip
    return Result(study, grid, curves, guess, samples, found, notes, time.perf_counter() - started)


def _stage(progress: Progress, name: str) -> Callable[[int, int], None]:
    return lambda done, total: progress(name, done, total)


def _sample(
    study: Study, graph: SyndromeGraph, grid: Array, seed: np.random.SeedSequence, threads: int | None,
    progress: Callable[[int, int], None] | None,
) -> NDArray[Any]:  # fmt: skip
    if study.noise in ("erasure", "optics"):
        if study.uniform:
            return percolation.sample_loops(graph, study.count, seed, threads, progress)
        fine = np.linspace(0.0, 1.0, 4001)
        return percolation.sample_control(graph, study.edge_rates(fine), fine, study.count, seed, threads, progress)
    children, parts = seed.spawn(len(grid)), []
    for number, (rate, child) in enumerate(zip(grid, children, strict=True)):
        if study.noise == "error":
            parts.append(matching.error_failures(graph, float(rate), study.count, child))
        else:
            parts.append(matching.mixed_failures(graph, float(rate), study.error, study.count, child))
        if progress is not None:
            progress(number + 1, len(grid))
    return np.stack(parts)


def _curve(study: Study, graph: SyndromeGraph, grid: Array, samples: NDArray[Any]) -> tuple[Array, Array | None]:
    """Failure along the grid: any logical bit, and the mean of 1 - 2^-rank where it is known."""
    if samples.dtype == np.int32:
        return percolation.failure_curves(samples, graph, study.edge_rates(grid)[0])
    if study.noise == "optics":
        return np.searchsorted(np.sort(samples), grid, side="right") / len(samples), None
    return samples.any(-1).reshape(len(grid), -1).mean(1), None


def _resampled(
    study: Study, grid: Array, samples: dict[int, NDArray[Any]], rng: np.random.Generator
) -> dict[int, Array]:
    """Curves of one bootstrap experiment: shots (or erasure patterns) drawn again with replacement."""
    out = {}
    for size, values in samples.items():
        graph = syndrome_graph(study.network, size, study.geometry)
        if study.noise in ("error", "mixed"):
            failed = np.asarray(values.any(-1))
            chosen = np.stack([row[rng.integers(0, len(row), len(row))] for row in failed])
            out[size] = chosen.reshape(len(grid), -1).mean(1)
        elif not study.uniform:
            out[size] = _curve(study, graph, grid, values[rng.integers(0, len(values), len(values))])[0]
        else:
            unique, counts = np.unique(values[:, 0], return_counts=True)
            drawn = rng.multinomial(len(values), counts / len(values))
            out[size] = drawn @ _table(graph, unique, study.edge_rates(grid)[0]) / len(values)
    return out


_TABLES: dict[tuple[Any, ...], Array] = {}


def _table(graph: SyndromeGraph, unique: NDArray[np.int32], grid: Array) -> Array:
    """`percolation.reached`, remembered for the resampled experiments of one curve."""
    key = (graph.network, graph.size, graph.geometry, unique.tobytes(), grid.tobytes())
    if key not in _TABLES:
        if len(_TABLES) > 16:
            _TABLES.clear()
        _TABLES[key] = percolation.reached(unique, graph, grid)
    return _TABLES[key]


def wilson(share: Array, shots: int) -> tuple[Array, Array]:
    """95 % Wilson interval of shares."""
    z = 1.959963984540054
    middle = (share + z * z / (2 * shots)) / (1 + z * z / shots)
    half = z * np.sqrt(share * (1 - share) / shots + z * z / (4 * shots**2)) / (1 + z * z / shots)
    return np.clip(middle - half, 0, 1), np.clip(middle + half, 0, 1)


def parse_sizes(text: str) -> tuple[int, ...] | None:
    """Sizes from "6,8,12"; None for "auto".

    Raises:
        RequestError: something else.
    """
    if text == "auto":
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise RequestError(
            f"sizes '{text}': whole numbers with commas between them are needed, for example 6,8,12"
        ) from error


def optics_from(
    fail: float = 0.25, photons: float | None = None, encoding: str = "none", lost_basis: str = "random",
    orientation: str = "random",
) -> Optics:  # fmt: skip
    """`Optics` from the words of the command line."""
    return Optics(fail, photons, lost_basis, parse_code(encoding), orientation)


def summary(result: Result) -> dict[str, Any]:
    """The JSON-ready result, without samples."""
    shots = result.study.count
    sizes: dict[str, Any] = {}
    for size, curve in result.curves.items():
        low, high = wilson(curve, shots)
        graph = syndrome_graph(result.study.network, size, result.study.geometry)
        sizes[str(size)] = {"edges": graph.edges, "any": curve.tolist(), "low": low.tolist(), "high": high.tolist()}
        if size in result.guess:
            sizes[str(size)]["guess"] = result.guess[size].tolist()
    best = result.best
    return {
        "schema": 1, "kind": "fbqc-study", "version": __version__, "numpy": np.__version__,
        "study": result.study.to_dict(), "grid": result.grid.tolist(), "sizes": sizes,
        "threshold": None if best is None else best.to_dict(),
        "thresholds": [item.to_dict() for item in result.thresholds], "expected": result.study.expected,
        "notes": result.notes, "seconds": round(result.seconds, 3),
    }  # fmt: skip
