"""From photons to outcomes: how often a fusion loses an outcome, bare and encoded in a small Shor code.

Rates are chances in 0..1; numpy arrays are taken everywhere.
Source: arXiv 2101.09310, Supplementary Note II; formulas derived again and checked against the published thresholds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq

from erase_plugins.errors import RequestError

BASES = ("random", "XX", "ZZ")
ORIENTATIONS = ("random", "fixed")
_MOST_CODE = 4
Rates = NDArray[np.float64]


def probability(value: float, name: str, below: float = 1.0) -> float:
    """``value`` as a probability.

    Raises:
        RequestError: not a number from 0 to ``below``.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not 0 <= value <= below:
        raise RequestError(f"{name} {value!r}: a probability from 0 to {below:g} is needed")
    return float(value)


@dataclass(frozen=True)
class Optics:
    """A linear-optical fusion.

    Attributes:
        fail: chance that a fusion without loss fails (1/2 bare, 1/4 boosted with a Bell pair).
        photons: photons that reach the detectors of one fusion; 1/fail if None.
        lost_basis: which outcome a failure loses: "random" (50:50), "XX" or "ZZ".
        code: (n, m) of the Shor code on every resource qubit, or None.
        orientation: "random" (code or its Hadamard-rotated twin, 50:50) or "fixed".

    Raises:
        RequestError: a value outside its range.
    """

    fail: float = 0.25
    photons: float | None = None
    lost_basis: str = "random"
    code: tuple[int, int] | None = None
    orientation: str = "random"

    def __post_init__(self) -> None:
        probability(self.fail, "failure rate")
        if self.photons is None and self.fail == 0:
            raise RequestError("failure rate 0: the number of photons does not follow from it; give --photons")
        if self.photons is not None and not self.photons >= 1:
            raise RequestError(f"{self.photons!r} photons: at least 1 reaches the detectors")
        if self.lost_basis not in BASES:
            raise RequestError(f"lost basis '{self.lost_basis}' is unknown; known: {', '.join(BASES)}")
        if self.orientation not in ORIENTATIONS:
            raise RequestError(f"orientation '{self.orientation}' is unknown; known: {', '.join(ORIENTATIONS)}")
        if self.code is not None and not all(1 <= part <= _MOST_CODE for part in self.code):
            raise RequestError(f"code {self.code}: both numbers lie in 1..{_MOST_CODE}")

    @property
    def detected(self) -> float:
        """Photons that reach the detectors of one fusion."""
        return float(self.photons if self.photons is not None else 1.0 / self.fail)

    def fusion_loss(self, photon_loss: ArrayLike) -> Rates:
        """Chance that a fusion loses both outcomes, from the loss of one photon: 1 - eta^photons."""
        return 1.0 - (1.0 - np.asarray(photon_loss, float)) ** self.detected

    def photon_loss(self, fusion_loss: ArrayLike) -> Rates:
        """Inverse of `fusion_loss`."""
        return 1.0 - (1.0 - np.asarray(fusion_loss, float)) ** (1.0 / self.detected)

    def physical(self, loss: ArrayLike, fail: ArrayLike | None = None) -> tuple[Rates, Rates]:
        """Erasure rates of the XX and the ZZ outcome of one physical fusion, from its loss (per fusion)."""
        loss, fail = np.asarray(loss, float), np.asarray(self.fail if fail is None else fail, float)
        share = {"random": (0.5, 0.5), "XX": (1.0, 0.0), "ZZ": (0.0, 1.0)}[self.lost_basis]
        return 1 - (1 - share[0] * fail) * (1 - loss), 1 - (1 - share[1] * fail) * (1 - loss)

    def outcomes(self, loss: ArrayLike, fail: ArrayLike | None = None) -> tuple[Rates, Rates]:
        """Erasure rates of the XX and ZZ outcomes of the network's (encoded) fusions."""
        x, z = self.physical(loss, fail)
        if self.code is not None:
            x, z = encoded(x, z, *self.code)
            if self.orientation == "random":
                x = z = (x + z) / 2
        return x, z

    def edge_rates(self, network: str, loss: ArrayLike, fail: ArrayLike | None = None) -> Rates:
        """Erasure rates of cubic and diagonal edges, (2, ...).

        In the 6-ring network XX outcomes are cubic and ZZ outcomes diagonal edges of either graph. In the 4-star
        network one graph has the XX and the other the ZZ outcomes: the worse of both decides.
        """
        x, z = self.outcomes(loss, fail)
        worse = np.maximum(x, z)
        return np.stack([worse, worse] if network == "4star" else [np.broadcast_to(x, worse.shape), z + 0 * worse])


def encoded(x: ArrayLike, z: ArrayLike, n: int, m: int) -> tuple[Rates, Rates]:
    """Erasure rates of logical XX and ZZ of an (n, m) Shor-encoded fusion made of n * m physical ones.

    XX is known if all XX of one row of m are, ZZ if every row knows at least one ZZ.
    """
    x, z = np.asarray(x, float), np.asarray(z, float)
    return (1 - (1 - x) ** m) ** n, 1 - (1 - z**m) ** n


def tolerated_loss(optics: Optics, threshold: float) -> float | None:
    """Largest loss per fusion at which the mean outcome erasure stays at ``threshold``; None if there is none."""
    return _solve(lambda loss: float(np.mean(optics.outcomes(loss))) - threshold)


def tolerated_failure(optics: Optics, threshold: float) -> float | None:
    """Largest failure rate without loss at which the mean outcome erasure stays at ``threshold``."""
    return _solve(lambda fail: float(np.mean(optics.outcomes(0.0, fail))) - threshold)


def _solve(function: object) -> float | None:
    assert callable(function)
    if function(0.0) > 0:
        return None
    if function(1.0) < 0:
        return 1.0
    return float(brentq(function, 0.0, 1.0, xtol=1e-14))


def parse_code(text: str) -> tuple[int, int] | None:
    """The code from a text: "none", "shor22" or "n,m".

    Raises:
        RequestError: anything else.
    """
    if text == "none":
        return None
    if text == "shor22":
        return (2, 2)
    parts: Sequence[str] = text.split(",")
    if len(parts) != 2 or not all(part.strip().isdigit() for part in parts):
        raise RequestError(f"encoding '{text}' is unknown; known: none, shor22, or two numbers such as 3,2")
    return int(parts[0]), int(parts[1])
