"""Syndrome graphs of the two fusion networks: vertices are checks, edges are measured outcomes.

Every outcome lies in exactly two checks of exactly one of two isomorphic graphs (primal and dual), so one graph is
simulated and rates are per graph. All directions are periodic.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from erase_plugins.errors import RequestError

NETWORKS = ("6ring", "4star")
GEOMETRIES = ("cells", "rotated")
CUBIC, DIAGONAL = 0, 1
SMALLEST, LARGEST = 3, 32


@dataclass(frozen=True)
class SyndromeGraph:
    """One syndrome graph on a torus.

    Attributes:
        network, size, geometry: what it was built from; ``size`` is the code distance L.
        vertices: number of checks.
        start, end: (E,) int32, the two checks of each outcome.
        label: (E,) uint8, bit i is set where the edge crosses the seam of axis i; the edges with bit i are the logical
            sheet of that axis, and a closed loop is harmless exactly if its labels cancel.
        kind: (E,) uint8, `CUBIC` (XX of face fusions) or `DIAGONAL` (ZZ of edge fusions).
        copies: parallel outcomes that one edge stands for (4 in the reduced 4-star network).
    """

    network: str
    size: int
    geometry: str
    vertices: int
    start: NDArray[np.int32]
    end: NDArray[np.int32]
    label: NDArray[np.uint8]
    kind: NDArray[np.uint8]
    copies: int

    @property
    def edges(self) -> int:
        """Number of edges."""
        return len(self.start)

    def bond_erasure(self, rate: NDArray[np.float64] | float) -> NDArray[np.float64]:
        """Chance that an edge carries no information, from the erasure rate of one outcome.

        One erased outcome among parallel ones makes the whole bond useless: 1 - (1 - p)^copies.
        """
        return 1.0 - (1.0 - np.asarray(rate, float)) ** self.copies

    def bond_flip(self, rate: NDArray[np.float64] | float) -> NDArray[np.float64]:
        """Chance that an edge without erasure is flipped: the parity of ``copies`` independent flips."""
        return (1.0 - (1.0 - 2.0 * np.asarray(rate, float)) ** self.copies) / 2.0


def check_size(size: object, geometry: str = "cells") -> int:
    """The size as a number.

    Raises:
        RequestError: no whole number, outside 3..32 (at 2 parallel edges coincide), or odd in the rotated drawing.
    """
    if isinstance(size, bool) or not isinstance(size, int | np.integer) or not SMALLEST <= size <= LARGEST:
        raise RequestError(f"size {size!r}: the lattice needs a whole number from {SMALLEST} to {LARGEST}")
    if geometry == "rotated" and size % 2:
        raise RequestError(
            f"size {size}: the rotated drawing colours its corners like a chessboard, so it needs an even size"
        )
    return int(size)


def syndrome_graph(network: str, size: int, geometry: str = "cells", merged: bool = True) -> SyndromeGraph:
    """The syndrome graph of a network.

    Args:
        network: "6ring" (face-centred cubic lattice, degree 12) or "4star" (simple cubic, every bond four times).
        size: number of cells along each axis.
        geometry: "cells", or "rotated" (6-ring: one ring per cube, checks on its even corners; a cross-check).
        merged: one edge for the four parallel outcomes of the 4-star network.

    Raises:
        RequestError: unknown network or geometry, a size that does not fit.
    """
    if network not in NETWORKS:
        raise RequestError(f"network '{network}' is unknown; known: {', '.join(NETWORKS)}")
    if geometry not in GEOMETRIES or (geometry == "rotated" and network != "6ring"):
        raise RequestError(f"geometry '{geometry}' is unknown for {network}; known: cells, and rotated for 6ring")
    return _build(network, check_size(size, geometry), geometry, merged)


@lru_cache(maxsize=32)
def _build(network: str, size: int, geometry: str, merged: bool) -> SyndromeGraph:
    corners = np.stack(np.meshgrid(*[np.arange(size)] * 3, indexing="ij"), -1).reshape(-1, 3)
    unit = np.eye(3, dtype=int)
    parts: list[tuple[NDArray[np.int_], NDArray[np.int_], int]] = []  # starts, displacement, kind
    if geometry == "rotated":
        for a in range(3):
            b, d = (axis for axis in range(3) if axis != a)
            even = corners.sum(1) % 2 == 0  # this corner of the face belongs to the primal graph, or its neighbour does
            parts += [
                (corners[even], unit[b] + unit[d], CUBIC),
                (corners[~even] + unit[d], unit[b] - unit[d], DIAGONAL),
            ]
    else:
        repeats = 4 if network == "4star" and not merged else 1
        parts += [(corners, unit[a], CUBIC) for a in range(3) for _ in range(repeats)]
        if network == "6ring":
            for a in range(3):
                b, d = (axis for axis in range(3) if axis != a)
                parts.append((corners, unit[b] - unit[d], DIAGONAL))
    starts = np.concatenate([part[0] for part in parts]) % size
    ends = starts + np.concatenate([np.broadcast_to(part[1], part[0].shape) for part in parts])
    crossed = (ends < 0) | (ends >= size)  # before wrapping: afterwards a diagonal cannot be told from its neighbour
    powers = np.array([size * size, size, 1])
    number = np.arange(size**3)
    if geometry == "rotated":
        number = np.cumsum(corners.sum(1) % 2 == 0) - 1
    return SyndromeGraph(
        network=network,
        size=size,
        geometry=geometry,
        vertices=size**3 // (2 if geometry == "rotated" else 1),
        start=number[starts @ powers].astype(np.int32),
        end=number[(ends % size) @ powers].astype(np.int32),
        label=(crossed @ np.array([1, 2, 4])).astype(np.uint8),
        kind=np.concatenate([np.full(len(part[0]), part[2]) for part in parts]).astype(np.uint8),
        copies=4 if network == "4star" and merged else 1,
    )
