"""Numbers of the literature beside which ours are shown."""

from __future__ import annotations

from dataclasses import dataclass

ZOO = "Error Correction Zoo, entry 'fusion'"
PAPER = "arXiv 2101.09310"


@dataclass(frozen=True)
class Published:
    """A published value (a share) and where it stands; ``derived`` follows exactly from other published values."""

    id: str
    title: str
    value: float | None
    source: str
    derived: float | None = None
    derivation: str = ""


TABLE = (
    Published("6ring-erasure", "6-ring, erasure of one outcome", 0.1198, ZOO, 0.1201635,
              "bond percolation on the face-centred cubic lattice (Lorenz and Ziff 1998)"),
    Published("4star-erasure", "4-star, erasure of one outcome", 0.0690, PAPER, 0.0690311,
              "1 - (1 - 0.2488126)^(1/4), bond percolation on the cubic lattice"),
    Published("6ring-error", "6-ring, flips, matching decoder", 0.0107, ZOO),
    Published("4star-error", "4-star, flips, matching decoder", 0.0075, PAPER, 0.00749,
              "(1 - (1 - 2 * 0.0293)^(1/4)) / 2 from the cubic value of Wang, Harrington, Preskill 2003"),
    Published("6ring-shor22-fusion-loss", "6-ring in the (2,2) code, loss per fusion at failure 1/4", 0.104, PAPER),
    Published("6ring-shor22-photon-loss", "6-ring in the (2,2) code, loss per photon at failure 1/4", 0.027, PAPER),
    Published("6ring-shor22-failure", "6-ring in the (2,2) code, failure without loss", 0.432, ZOO),
    Published("6ring-bare-failure", "6-ring bare, failure without loss", None, "not found", 0.2396, "2 * 0.1198"),
    Published("4star-shor22-fusion-loss", "4-star in the (2,2) code, loss per fusion at failure 1/4", None, "not found",
              0.041, "from 0.0690 by the formula of the code"),
)  # fmt: skip


def published(name: str) -> Published:
    """A row of the table."""
    return next(item for item in TABLE if item.id == name)


def outcome_threshold(network: str, noise: str = "erasure") -> float:
    """Published threshold of one outcome ("erasure" or "error")."""
    value = published(f"{network}-{noise}").value
    assert value is not None
    return value
