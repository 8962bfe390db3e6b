"""Random neighbours of a text embedding: points in a shell around it, and points outside.

Cosine and distance are taken over all rows but the first, which is the same for every prompt of a causal text encoder.
Points are drawn directly, without rejection, so neither the size of the embeddings nor of the shell matters (RealEra,
arXiv 2410.09140, describes the shell by a bound on the distance and two on the cosine).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from erase_plugins.errors import RequestError
from erase_plugins.families.base import Conditioning

#: largest share of noise of a point outside the shell; beyond 1 it points away from the embedding
FARTHEST = 1.16


def share_of(cosine: float) -> float:
    """Share kappa of noise at which (1 - kappa) e + kappa w, with w orthogonal to e and as long, has this cosine."""
    angle = math.tan(math.acos(cosine))
    return angle / (1.0 + angle)


@dataclass(frozen=True)
class Shell:
    """Neighbours have a cosine in [low, high] to the embedding and lie within ``distance`` of it.

    Attributes:
        low, high: cosine bounds.
        distance: largest distance in units of the embedding's norm; None for no bound.
        norm: "lerp" mixes embedding and noise (neighbours get shorter), "preserve" keeps the embedding's norm.

    Raises:
        RequestError: no neighbour is possible; says what would be.
    """

    low: float = 0.5
    high: float = 0.9
    distance: float | None = None
    norm: str = "lerp"

    def __post_init__(self) -> None:
        if not -1.0 < self.low < self.high < 1.0:
            raise RequestError(f"cosines need -1 < similar_low < similar_high < 1, not {self.low} and {self.high}")
        if self.low <= _cosine(FARTHEST):
            raise RequestError(
                f"similar_low={self.low} leaves nothing outside; it must be above {_cosine(FARTHEST):.2f}"
            )
        nearest = math.sqrt(2.0) * share_of(self.high)
        if self.distance is not None and self.distance < nearest:
            raise RequestError(
                f"no neighbour is within distance={self.distance} of the concept at a cosine of {self.high}; "
                f"raise distance to {nearest:.3f} or more"
            )

    def near(self, cond: Conditioning, generator: torch.Generator) -> Conditioning:
        """One random neighbour of every prompt."""
        farthest = share_of(self.low)
        if self.distance is not None:
            farthest = min(farthest, self.distance / math.sqrt(2.0))
        return self._moved(cond, share_of(self.high), farthest, generator)

    def far(self, cond: Conditioning, generator: torch.Generator) -> Conditioning:
        """One random point outside the shell for every prompt."""
        return self._moved(cond, share_of(self.low), FARTHEST, generator)

    def _moved(self, cond: Conditioning, low: float, high: float, generator: torch.Generator) -> Conditioning:
        rows = cond.embeds[:, 1:]
        flat = rows.flatten(1).cpu().double()
        length = flat.norm(dim=1, keepdim=True)
        noise = torch.randn(flat.shape, generator=generator, dtype=torch.float64)
        noise = noise - flat * ((noise * flat).sum(1, keepdim=True) / length.square().clamp_min(1e-300))
        noise = noise * (length / noise.norm(dim=1, keepdim=True))
        share = low + (high - low) * torch.rand((len(flat), 1), generator=generator, dtype=torch.float64)
        moved = (1.0 - share) * flat + share * noise
        if self.norm == "preserve":
            moved = moved * (length / moved.norm(dim=1, keepdim=True))
        return replace(cond, embeds=torch.cat([cond.embeds[:, :1], _like(moved, rows)], dim=1))


def _cosine(share: float) -> float:
    return (1.0 - share) / math.hypot(1.0 - share, share)


def _like(flat: Tensor, rows: Tensor) -> Tensor:
    return flat.reshape(rows.shape).to(device=rows.device, dtype=rows.dtype)
