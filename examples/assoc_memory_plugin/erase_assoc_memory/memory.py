"""The network: clusters of units, binary connections, recall by winner-take-all. Plain numpy.

A code picks one unit in each of c clusters of l units (c symbols of an alphabet of l letters); storing it connects its
units with each other. Source: clique networks of Gripon and Berrou, as in arXiv 1709.08367.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from erase_plugins.errors import RequestError

Codes = NDArray[np.int64]
Bits = NDArray[np.bool_]
GAP = -1
_BLOCK = 256


@dataclass(frozen=True)
class Recall:
    """What the network settled in, for a batch of cues.

    Attributes:
        codes: (B, c) symbols.
        clique: (B,) share of the connections between the winners that are there; 1 for a stored code.
        overlap: (B,) share of the winners that the cue had switched on.
        rounds: updates until nothing changed.
    """

    codes: Codes
    clique: NDArray[np.float64]
    overlap: NDArray[np.float64]
    rounds: int


class CliqueMemory:
    """Connections between units, with how many codes use each, so that one can be taken back.

    Args:
        clusters: c >= 4.
        letters: l >= 2.
        counted: keep counts; without them forgetting is only possible by cutting connections.
        density_max: share of possible connections above which nothing more is stored (false cliques appear there).

    Raises:
        RequestError: sizes out of range.
    """

    def __init__(self, clusters: int = 32, letters: int = 32, counted: bool = True, density_max: float = 0.35) -> None:
        if clusters < 4 or letters < 2 or clusters * letters > 8192:
            raise RequestError(
                f"{clusters} clusters of {letters} units: 4 or more clusters, 2 or more units, 8192 in all"
            )
        if not 0 < density_max <= 1:
            raise RequestError(f"largest density {density_max!r}: a share above 0 and up to 1 is needed")
        self.clusters, self.letters, self.density_max = clusters, letters, density_max
        self.links: Bits = np.zeros((self.units, self.units), bool)
        self.counts: NDArray[np.uint16] | None = np.zeros((self.units, self.units), np.uint16) if counted else None

    @property
    def units(self) -> int:
        """N = c l."""
        return self.clusters * self.letters

    @property
    def density(self) -> float:
        """Share of the possible connections (none inside a cluster) that are there."""
        return float(self.links.sum()) / (self.units * (self.units - self.letters))

    def positions(self, codes: Codes) -> Codes:
        """Unit numbers of codes, (..., c).

        Raises:
            RequestError: another length, or a symbol outside the alphabet.
        """
        codes = np.asarray(codes)
        if codes.shape[-1:] != (self.clusters,) or (codes.size and (codes.min() < 0 or codes.max() >= self.letters)):
            raise RequestError(f"a code has {self.clusters} symbols from 0 to {self.letters - 1}")
        return np.arange(self.clusters) * self.letters + codes

    def one_hot(self, codes: Codes) -> Bits:
        """Active units of codes, (B, N)."""
        active = np.zeros((len(codes), self.units), bool)
        np.put_along_axis(active, self.positions(codes), True, 1)
        return active

    # ---- storing and forgetting --------------------------------------------------------------------------------

    def edges(self, code: Codes) -> tuple[Codes, Codes]:
        """Ends of the connections of one code, both directions."""
        units = self.positions(np.asarray(code))
        apart = ~np.eye(self.clusters, dtype=bool)
        one, two = np.broadcast_arrays(units[:, None], units[None])
        return one[apart], two[apart]

    def store(self, code: Codes) -> None:
        """Stores one code.

        Raises:
            RequestError: the memory is full; says how full and what helps.
        """
        one, two = self.edges(code)
        new = int((~self.links[one, two]).sum())
        self._room(self.links.sum() + new)
        self.add_edges(one, two)

    def add_edges(self, one: Codes, two: Codes) -> None:
        """Adds connections (each direction given), once in the counts."""
        self.links[one, two] = True
        if self.counts is not None:
            self.counts[one, two] += 1

    def _room(self, links: float) -> None:
        density = float(links) / (self.units * (self.units - self.letters))
        if density > self.density_max:
            raise RequestError(
                f"the memory is full: density {density:.2f} would pass {self.density_max:g}, and false ones appear; "
                f"make one with more clusters or letters than {self.clusters} x {self.letters}"
            )

    def forget(self, code: Codes) -> None:
        """Takes one stored code back: links and counts as if it had never been stored.

        Raises:
            RequestError: no counts are kept, or the code was never stored.
        """
        if self.counts is None:
            raise RequestError(
                "this memory keeps no counts, so exact forgetting is not possible; cut connections instead"
            )
        one, two = self.edges(code)
        if not self.counts[one, two].all():
            raise RequestError("this code was never stored, or is forgotten already; nothing was changed")
        self.remove_edges(one, two)

    def remove_edges(self, one: Codes, two: Codes) -> None:
        """Inverse of `add_edges`; needs counts."""
        assert self.counts is not None
        self.counts[one, two] -= 1
        self.links[one, two] = self.counts[one, two] > 0

    def cut(self, code: Codes) -> None:
        """Anti-Hebbian forgetting: removes every connection of a code, also those that other codes use."""
        one, two = self.edges(code)
        self.links[one, two] = False
        if self.counts is not None:
            self.counts[one, two] = 0

    # ---- recall ------------------------------------------------------------------------------------------------

    def recall(self, cues: Bits, rounds: int = 6, prior: float = 0.5) -> Recall:
        """Settles from cues (B, N) by sum of support: one winner per cluster, the cue counts ``prior``.

        Ties go to the first unit, so that recall repeats. Rows that no longer change are left alone.
        """
        codes, used = self._winners(self._any_support(cues), cues, prior), 1
        open_rows = np.arange(len(cues))
        while used < rounds:
            used += 1
            found = self._winners(self._support(codes[open_rows]), cues[open_rows], prior)
            changed = (found != codes[open_rows]).any(1)
            codes[open_rows] = found
            open_rows = open_rows[changed]
            if not len(open_rows):
                break
        won = self.positions(codes)
        inner = np.take_along_axis(self._support(codes), won, 1).sum(1, dtype=np.int64)
        clique = inner / (self.clusters * (self.clusters - 1))
        return Recall(codes, clique, np.take_along_axis(cues, won, 1).mean(1), used)

    def _support(self, codes: Codes) -> NDArray[np.uint16]:
        """a W for one winner per cluster, (B, N): c rows of W are added instead of multiplying with all N."""
        out = np.empty((len(codes), self.units), np.uint16)
        units, rows = self.positions(codes), self.links.view(np.uint8)
        for first in range(0, len(codes), _BLOCK):  # small enough to stay in the cache while c rows are added
            part = slice(first, first + _BLOCK)
            total = rows[units[part, 0]].astype(np.uint16)
            for cluster in range(1, self.clusters):
                total += rows[units[part, cluster]]
            out[part] = total
        return out

    def _any_support(self, active: Bits) -> NDArray[Any]:
        """a W for any active units."""
        shaped = active.reshape(-1, self.clusters, self.letters)
        if (shaped.sum(2) == 1).all():
            return self._support(shaped.argmax(2))
        return active.astype(np.float32) @ self.links.astype(np.float32)

    def _winners(self, support: NDArray[Any], cues: Bits, prior: float) -> Codes:
        drive = support + np.float32(prior) * cues
        return drive.reshape(-1, self.clusters, self.letters).argmax(2)

    def complete(self, codes: Codes, rounds: int = 10) -> Codes:
        """Fills gaps (symbol -1) by sum of max: a unit counts the other clusters that hold a neighbour of it.

        Returns:
            (B, c) symbols; -1 where several units of a cluster stay equally good.
        """
        known = codes != GAP
        active = np.repeat(~known, self.letters, axis=1)
        active |= self.one_hot(np.where(known, codes, 0)) & np.repeat(known, self.letters, axis=1)
        weights = self.links.astype(np.float32)
        shape = (len(codes), self.clusters, self.letters)
        for _ in range(rounds):
            score = active.astype(np.float32)
            for cluster in range(self.clusters):
                part = slice(cluster * self.letters, (cluster + 1) * self.letters)
                score += active[:, part].astype(np.float32) @ weights[part] > 0
            score = score.reshape(shape)
            now = (score == score.max(2, keepdims=True)).reshape(active.shape)
            if (now == active).all():
                break
            active = now
        units = active.reshape(shape)
        return np.where(units.sum(2) == 1, units.argmax(2), GAP)
