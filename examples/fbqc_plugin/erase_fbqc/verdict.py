"""Does a given photonic machine stay below threshold? Instant where one erasure rate describes the network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from erase_fbqc.noise import Optics, probability, tolerated_loss
from erase_fbqc.published import outcome_threshold
from erase_fbqc.study import Study, run
from erase_plugins.errors import RequestError


@dataclass(frozen=True)
class Verdict:
    """Whether the machine works, and by how much. Rates are chances in 0..1; ``None`` where no loss is tolerated."""

    passes: bool
    erasure: float
    threshold: float
    margin: float
    fusion_loss: float
    tolerated_fusion_loss: float | None
    tolerated_photon_loss: float | None
    simulated: bool

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return dict(vars(self))


def judge(network: str, optics: Optics, photon_loss: float, shots: int = 2000, seed: int = 0) -> Verdict:
    """Compares the machine with the published threshold; simulates if cubic and diagonal edges lose differently.

    Args:
        network: "6ring" or "4star".
        optics: the fusion.
        photon_loss: chance that one photon is lost.

    Raises:
        RequestError: a rate outside 0..1, an unknown network.
    """
    loss = float(optics.fusion_loss(probability(photon_loss, "photon loss")))
    threshold = outcome_threshold(*_known(network))
    cubic, diagonal = (float(rate) for rate in optics.edge_rates(network, loss))
    mean = (cubic + diagonal) / 2
    simulated = not np.isclose(cubic, diagonal, rtol=1e-12)
    if simulated:
        found = run(Study(network, "optics", (6, 12), shots, 0.0, 0.5, 401, optics=optics, seed=seed, bootstrap=1)).best
        tolerated = None if found is None else found.value
        return Verdict(
            tolerated is not None and loss < tolerated, mean, threshold, (tolerated or 0.0) - loss, loss, tolerated,
            None if tolerated is None else float(optics.photon_loss(tolerated)), True,
        )  # fmt: skip
    tolerated = _worst(network, optics, threshold)
    return Verdict(
        mean < threshold, mean, threshold, threshold - mean, loss, tolerated,
        None if tolerated is None else float(optics.photon_loss(tolerated)), False,
    )  # fmt: skip


def _known(network: str) -> tuple[str]:
    if network not in ("6ring", "4star"):
        raise RequestError(f"network '{network}' is unknown; known: 6ring, 4star")
    return (network,)


def _worst(network: str, optics: Optics, threshold: float) -> float | None:
    """Largest loss per fusion at which the worse graph stays at the threshold."""
    if network == "6ring" or optics.orientation == "random":
        return tolerated_loss(optics, threshold)
    grid = np.linspace(0, 1, 100_001)
    below = np.flatnonzero(optics.edge_rates(network, grid)[0] <= threshold)
    return float(grid[below[-1]]) if len(below) else None
