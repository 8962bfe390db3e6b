"""Erasure alone: add edges in random order and note when the erased set first contains a nontrivial loop.

Nothing is decoded: an erased set loses logical information exactly if it holds a closed loop whose labels do not
cancel. One pass per shot gives the failure curve for every erasure rate (Newman and Ziff, arXiv cond-mat/0005264).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.special import betainc

from erase_fbqc.network import SyndromeGraph

#: shots of one batch: each has a seed of its own, so results do not depend on the number of threads
BATCH = 2000
Progress = Callable[[int, int], None]


@njit(cache=True, nogil=True)
def _find(parent: NDArray[np.int32], parity: NDArray[np.uint8], vertex: int) -> tuple[int, int]:  # pragma: no cover
    """Root of a vertex and the XOR of labels on the way; flattens the path."""
    root, total = vertex, 0
    while parent[root] >= 0:
        total ^= parity[root]
        root = parent[root]
    rest = total
    while parent[vertex] >= 0 and parent[vertex] != root:
        step, own = parent[vertex], parity[vertex]
        parent[vertex], parity[vertex] = root, rest
        rest ^= own
        vertex = step
    return root, total


@njit(cache=True, nogil=True)
def _loop(  # pragma: no cover
    parent: NDArray[np.int32], parity: NDArray[np.uint8], start: int, end: int, label: int
) -> int:
    """Adds an edge; the label of the loop that it closes, 0 if it joins two clusters or the loop is trivial."""
    one, first = _find(parent, parity, start)
    two, second = _find(parent, parity, end)
    if one == two:
        return first ^ second ^ label
    if parent[one] > parent[two]:  # roots hold minus their size: the smaller cluster goes below the larger
        one, two = two, one
    parent[one] += parent[two]
    parent[two] = one
    parity[two] = first ^ second ^ label
    return 0


@njit(cache=True, nogil=True)
def _widen(span: int, loop: int) -> int:  # pragma: no cover
    """The set of sums (one bit per label) after another loop joined it; unchanged if the loop is in it already."""
    if (span >> loop) & 1:
        return span
    wider = span
    for member in range(8):
        if (span >> member) & 1:
            wider |= 1 << (member ^ loop)
    return wider


@njit(cache=True, nogil=True)
def _in_order(  # pragma: no cover
    start: NDArray[np.int32], end: NDArray[np.int32], label: NDArray[np.uint8], vertices: int,
    order: NDArray[np.int64], found: NDArray[np.int32],
) -> None:  # fmt: skip
    parent, parity = np.full(vertices, -1, np.int32), np.zeros(vertices, np.uint8)
    span, rank = 1, 0
    for count in range(len(order)):
        edge = order[count]
        wider = _widen(span, _loop(parent, parity, start[edge], end[edge], label[edge]))
        if wider != span:
            span = wider
            found[rank] = count + 1
            rank += 1
            if rank == 3:
                return


@njit(cache=True, nogil=True)
def _shots(  # pragma: no cover
    start: NDArray[np.int32], end: NDArray[np.int32], label: NDArray[np.uint8], vertices: int,
    rng: np.random.Generator, found: NDArray[np.int32],
) -> None:  # fmt: skip
    edges = len(start)
    order = np.arange(edges)  # a shuffle may start from any order, so it is not reset between shots
    parent, parity = np.empty(vertices, np.int32), np.empty(vertices, np.uint8)
    for shot in range(len(found)):
        parent[:], parity[:] = -1, 0
        span, rank = 1, 0
        for count in range(edges):
            other = count + int(rng.random() * (edges - count))
            order[count], order[other] = order[other], order[count]
            edge = order[count]
            wider = _widen(span, _loop(parent, parity, start[edge], end[edge], label[edge]))
            if wider != span:
                span = wider
                found[shot, rank] = count + 1
                rank += 1
                if rank == 3:
                    break


def first_loops(graph: SyndromeGraph, order: NDArray[np.int64]) -> NDArray[np.int32]:
    """Edges needed, in the given order, for 1, 2 and 3 independent nontrivial loops; 0 where they never come.

    Args:
        order: edge numbers, all of them or the first ones.
    """
    found = np.zeros(3, np.int32)
    _in_order(graph.start, graph.end, graph.label, graph.vertices, np.asarray(order, np.int64), found)
    return found


def sample_loops(
    graph: SyndromeGraph, shots: int, seed: np.random.SeedSequence, threads: int | None = None,
    progress: Progress | None = None,
) -> NDArray[np.int32]:  # fmt: skip
    """`first_loops` of ``shots`` random orders, (shots, 3) int32; equal for every number of threads."""
    found = np.zeros((shots, 3), np.int32)
    parts = [found[first : first + BATCH] for first in range(0, shots, BATCH)]

    def work(item: tuple[NDArray[np.int32], np.random.SeedSequence]) -> int:
        part, child = item
        _shots(graph.start, graph.end, graph.label, graph.vertices, np.random.default_rng(child), part)
        return len(part)

    _run(work, list(zip(parts, seed.spawn(len(parts)), strict=True)), threads, shots, progress)
    return found


def sample_control(
    graph: SyndromeGraph, rates: NDArray[np.float64], grid: NDArray[np.float64], shots: int,
    seed: np.random.SeedSequence, threads: int | None = None, progress: Progress | None = None,
) -> NDArray[np.float64]:  # fmt: skip
    """The value of a control (a loss, a failure rate) at which each shot first has a nontrivial loop; inf if never.

    Every edge draws a uniform number and opens where its rate reaches it, so that one draw serves the whole curve.

    Args:
        rates: (2, G) chance that a cubic and a diagonal edge are erased, rising along ``grid``.
        grid: (G,) values of the control.
    """
    bonds = graph.bond_erasure(rates)
    values = np.full(shots, np.inf)
    parts = [values[first : first + 500] for first in range(0, shots, 500)]

    def opening(draws: NDArray[np.float64], kind: int) -> NDArray[np.float64]:
        table = bonds[kind]
        opened = np.interp(draws, table, grid, left=grid[0], right=np.inf)
        return np.where(draws <= table[0], grid[0], opened)

    def work(item: tuple[NDArray[np.float64], np.random.SeedSequence]) -> int:
        part, child = item
        rng = np.random.default_rng(child)
        for number in range(len(part)):
            draws = rng.random(graph.edges)
            at = np.where(graph.kind == 0, opening(draws, 0), opening(draws, 1))
            order = np.argsort(at, kind="stable")
            first = int(first_loops(graph, order)[0])
            part[number] = at[order[first - 1]] if first else np.inf
        return len(part)

    _run(work, list(zip(parts, seed.spawn(len(parts)), strict=True)), threads, shots, progress)
    return values


def _run(
    work: Callable[..., int], items: list[Any], threads: int | None, shots: int, progress: Progress | None
) -> None:
    done = 0
    with ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool:
        for count in pool.map(work, items):
            done += count
            if progress is not None:
                progress(done, shots)


def reached(counts: NDArray[np.int32], graph: SyndromeGraph, grid: NDArray[np.float64]) -> NDArray[np.float64]:
    """Chance that a shot that needs k edges has them at each outcome erasure rate, (shots that differ, G).

    P(Binomial(E, bond erasure) >= k); rows follow ``numpy.unique(counts)``, and k = 0 means never.
    """
    unique = np.unique(counts)[:, None].astype(float)
    bonds = graph.bond_erasure(grid)[None]
    safe = np.where(unique > 0, unique, 1.0)
    return np.where(unique > 0, betainc(safe, graph.edges - safe + 1.0, bonds), 0.0)


def failure_curves(
    found: NDArray[np.int32], graph: SyndromeGraph, grid: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Failure rates at each outcome erasure rate: any logical bit lost, and the mean of 1 - 2^-rank ("guess")."""
    steps = []
    for rank in range(3):
        unique, inverse = np.unique(found[:, rank], return_counts=True)
        steps.append(inverse @ reached(unique, graph, grid) / len(found))
    # 1 - 2^-rank rises by 1/2, 1/4 and 1/8 with each further independent loop
    return steps[0], steps[0] / 2 + steps[1] / 4 + steps[2] / 8
