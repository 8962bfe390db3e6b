"""Low-rank changes that stay out of the directions which a gradient shares with everything else.

The first directions of a weight gradient are representations that many texts have in common. A change along them hurts
other texts and comes back as soon as somebody trains on anything alike; the factors here are led around them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from erase_plugins.artifacts.edit import Delta, LowRank
from erase_plugins.engine.adapters import LoraSlot
from erase_plugins.engine.loop import Scale, gradients
from erase_plugins.families.model import TRANSPOSED, Model, ModuleRef

KINDS = ("hard", "soft", "quadratic")


def collapse(rows: Tensor, basis: Tensor, sizes: Tensor, kind: str) -> Tensor:
    """Rows (n, width) with the directions of ``basis`` (width, k) taken out or made small.

    Args:
        rows, basis: see above; the columns of ``basis`` are orthonormal.
        sizes: (k,) singular values s of these directions, falling.
        kind: hard takes them out, soft divides each by s / s_k, quadratic by its square.
    """
    along = rows @ basis
    if kind == "hard":
        return rows - along @ basis.T
    power = 1 if kind == "soft" else 2
    return rows - (along - along / (sizes / sizes[-1]) ** power) @ basis.T


def weight_gradients(model: Model, refs: Sequence[ModuleRef], losses: Sequence[Callable[[], Tensor]]) -> list[Tensor]:
    """Gradient (out, in) of a sum of losses by the weight of every module, in float32."""
    weights = [model.module(ref).get_parameter("weight") for ref in refs]
    frozen = [(part, part.requires_grad) for part in model.own_parameters()]
    for part, _ in frozen:
        part.requires_grad_(False)
    total = [torch.zeros_like(part, dtype=torch.float32) for part in weights]
    scale = Scale.of(model)
    try:
        for part in weights:
            part.requires_grad_(True)
        for loss in losses:
            for sum_, grad in zip(total, gradients(loss(), weights, scale), strict=True):
                sum_ += grad.float()
    finally:
        for part, wanted in frozen:
            part.requires_grad_(wanted)
    return [part.T if ref.kind == TRANSPOSED else part for part, ref in zip(total, refs, strict=True)]


class CollapsedSlot(LoraSlot):
    """A low-rank change of a linear map; both factors are collapsed before they are used."""

    sides: tuple[Tensor, Tensor] | None = None

    def lead(self, gradient: Tensor, count: int, kind: str) -> None:
        """Leads both factors around the first ``count`` directions of a gradient (out, in)."""
        U, S, V = torch.linalg.svd(gradient, full_matrices=False)
        count = max(1, min(count, int((1e-6 * S[0] < S).sum()), min(gradient.shape) - 1))
        self.sides, self.sizes, self.kind = (U[:, :count], V[:count].T), S[:count], kind

    def factors(self) -> tuple[Tensor, Tensor]:
        """A (rank, in) and B (out, rank) as they act."""
        if self.sides is None:
            return self.A, self.B
        out, into = self.sides
        return collapse(self.A, into, self.sizes, self.kind), collapse(self.B.T, out, self.sizes, self.kind).T

    def deltas(self) -> dict[str, Delta]:
        A, B = (part.detach().cpu().clone() for part in self.factors())
        change = LowRank(A, B * self.scale)
        return {self.ref.weight: change.transposed() if self.ref.kind == TRANSPOSED else change}

    def changed(self, original: Any, x: Tensor, *args: Any) -> Tensor:
        out: Tensor = original(x, *args)
        A, B = self.factors()
        side = functional.linear(functional.linear(x.to(A.dtype), A), B)
        return out + (side * self.scale).to(out.dtype)
