"""Training steps on "down" factors in coordinates in which what their layers read is white.

What a layer reads lies mostly along a few directions that all prompts share, and what tells one word from another is
small beside them. A step that takes all entries of a factor alike moves its answers along the former most, where there
is nothing to learn. So A C^(1/2) is trained in place of A, with C = mean x x^T over rows that the layer reads, in units
of its mean diagonal, and a share of one added: a step then changes answers along all directions alike.

Source:
    Desjardins et al., "Natural Neural Networks" (2015), section 3, for one side of a layer, measured once, uncentred.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor, nn

from erase_plugins.workflow.lora_features import ROWS

#: added to C; directions that are read less than that hardly count
_SHARE = 0.1


@dataclass(frozen=True)
class White:
    """C of one layer.

    Attributes:
        axes: (in, k) orthonormal, those that the rows span.
        sizes: (k,) eigenvalues of C along them.
        rest: its eigenvalue along all others.
    """

    axes: Tensor
    sizes: Tensor
    rest: float = _SHARE

    @classmethod
    def of(cls, rows: Tensor, device: torch.device) -> White:
        """From at most `ROWS` of the rows (n, in), taken at equal distances; kept on a device."""
        axes, values, _ = torch.linalg.svd(rows[:: max(1, ceil(len(rows) / ROWS))].T, full_matrices=False)
        values = values / values.max().clamp_min(1e-30)  # squares of large ones would be infinite
        mean = values.square().sum() / rows.shape[1]
        sizes = values.square() / mean if mean > 0 else values
        return cls(axes.to(device), (sizes + _SHARE).to(device))

    def times(self, factor: Tensor, power: float) -> Tensor:
        """``factor`` (rank, in, ...) times C to a power."""
        rest = self.rest**power
        along = torch.einsum("ri...,ik->rk...", factor, self.axes * (self.sizes**power - rest))
        return torch.einsum("rk...,ik->ri...", along, self.axes) + rest * factor


def steps_on(
    factors: Sequence[tuple[nn.Parameter, White | None]], steps: int, rate: float, error: Callable[[int], Tensor]
) -> None:
    """Adam, with a rate that falls to zero as a cosine.

    Args:
        factors: (rank, in, ...) with what their layers read, None where that is not known; changed in place.
        steps: how many.
        rate: at the start, in units of the mean size of a trained tensor's entries.
        error: of a step, from the factors as they are.
    """
    inner = [nn.Parameter(white.times(factor.detach(), 0.5) if white else factor.detach()) for factor, white in factors]
    optimizer = torch.optim.Adam(
        {"params": [part], "lr": rate * float(part.detach().abs().mean().clamp_min(1e-6))} for part in inner
    )
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    outer = [factor for factor, _ in factors]
    for step in range(steps):
        slopes = torch.autograd.grad(error(step), outer, allow_unused=True)
        for part, slope, (_, white) in zip(inner, slopes, factors, strict=True):
            part.grad = white.times(slope, -0.5) if white and slope is not None else slope
        optimizer.step()
        falling.step()
        with torch.no_grad():
            for part, (factor, white) in zip(inner, factors, strict=True):
                factor.copy_(white.times(part, -0.5) if white else part)
