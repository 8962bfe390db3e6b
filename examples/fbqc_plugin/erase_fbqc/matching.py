"""Errors, and errors together with erasures: minimum-weight perfect matching by PyMatching."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_matrix, csr_matrix

from erase_fbqc.network import SyndromeGraph
from erase_plugins.errors import EraseError, RequestError

#: error samples that share the weights of one erasure pattern
ERRORS_PER_PATTERN = 20
_CHUNK = 4_000_000  # random numbers held at once
Progress = Callable[[int, int], None]


class MissingMatching(EraseError, ImportError):
    """PyMatching is not installed."""

    exit_code = 4


def matching_library() -> Any:
    """The module pymatching.

    Raises:
        MissingMatching: not installed; erasure studies work without it.
    """
    try:
        import pymatching
    except ImportError as error:
        raise MissingMatching(
            "errors need PyMatching: pip install 'erase-plugins-fbqc[mwpm]'; erasure studies work without it"
        ) from error
    return pymatching


def error_failures(
    graph: SyndromeGraph, rate: float, shots: int, seed: np.random.SeedSequence, progress: Progress | None = None
) -> NDArray[np.bool_]:
    """Whether each logical axis failed in each shot, (shots, 3), for independent flips of every outcome.

    Raises:
        RequestError: a rate of 1/2 or more (weights would be negative), or 0 (nothing to decode).
    """
    if not 0 < rate < 0.5:
        raise RequestError(f"error rate {rate!r}: it lies between 0 and 1/2, both excluded")
    rng = np.random.default_rng(seed)
    flip = float(graph.bond_flip(rate))
    decoder = _decoder(graph, np.full(graph.edges, np.log((1 - flip) / flip)))
    failed = []
    step = max(1, _CHUNK // graph.edges)
    for first in range(0, shots, step):
        errors = rng.random((min(step, shots - first), graph.edges)) < flip
        failed.append(_residual(graph, decoder, errors))
        if progress is not None:
            progress(min(first + step, shots), shots)
    return np.concatenate(failed)


def mixed_failures(
    graph: SyndromeGraph, erasure: float, error: float, patterns: int, seed: np.random.SeedSequence,
    progress: Progress | None = None,
) -> NDArray[np.bool_]:  # fmt: skip
    """As `error_failures`, with erased outcomes whose place is known: (patterns, 20, 3).

    An erased outcome is random and its edge costs nothing; every pattern has its own weights and 20 error samples, so
    intervals belong over patterns.

    Raises:
        RequestError: an error rate outside (0, 1/2) or an erasure rate outside 0..1.
    """
    if not 0 < error < 0.5:
        raise RequestError(f"error rate {error!r}: it lies between 0 and 1/2, both excluded")
    if not 0 <= erasure <= 1:
        raise RequestError(f"erasure rate {erasure!r}: a probability from 0 to 1 is needed")
    rng = np.random.default_rng(seed)
    flip, lost = float(graph.bond_flip(error)), float(graph.bond_erasure(erasure))
    failed = []
    for number in range(patterns):
        erased = rng.random(graph.edges) < lost
        decoder = _decoder(graph, np.where(erased, 0.0, np.log((1 - flip) / flip)))
        errors = rng.random((ERRORS_PER_PATTERN, graph.edges)) < np.where(erased, 0.5, flip)
        failed.append(_residual(graph, decoder, errors))
        if progress is not None:
            progress(number + 1, patterns)
    return np.stack(failed)


def incidence(graph: SyndromeGraph) -> csr_matrix:
    """Which outcome is in which check, (vertices, edges)."""
    columns = np.tile(np.arange(graph.edges), 2)
    rows = np.concatenate([graph.start, graph.end])
    return csr_matrix((np.ones(len(rows), np.uint8), (rows, columns)), shape=(graph.vertices, graph.edges))


def sheets(graph: SyndromeGraph) -> NDArray[np.uint8]:
    """Which outcome is in which logical sheet, (3, edges)."""
    return np.asarray(graph.label[None] >> np.arange(3, dtype=np.uint8)[:, None] & 1, np.uint8)


def _decoder(graph: SyndromeGraph, weights: NDArray[np.float64]) -> Any:
    return matching_library().Matching.from_check_matrix(
        csc_matrix(incidence(graph)), weights=weights, faults_matrix=csc_matrix(sheets(graph))
    )


def _residual(graph: SyndromeGraph, decoder: Any, errors: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Error and correction together: does a logical sheet see an odd number of them?"""
    flips = errors.astype(np.uint8)
    syndrome = (incidence(graph).astype(np.int32) @ flips.T).T % 2
    correction = decoder.decode_batch(syndrome.astype(np.uint8))
    observed = flips @ sheets(graph).T.astype(np.int32) % 2
    return np.asarray(observed != correction, bool)
