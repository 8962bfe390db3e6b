"""Muon (Jordan et al. 2024): momentum of a weight matrix is made orthogonal before it is a step; AdamW for the rest."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

#: polynomials of three rough iterations in the manner of Amsel et al. 2025 ("Polar Express"): singular values that are
#: up to a hundred times apart come to lie between about 0.2 and 1.9
_STEPS = ((8.2051, -22.9019, 16.4607), (4.0664, -2.8612, 0.5184), (3.9096, -2.8234, 0.5250))


def orthogonal(matrices: Tensor) -> Tensor:
    """Roughly the nearest (semi-)orthogonal matrices to ``matrices`` (n, rows, columns), computed in bf16."""
    tall = matrices.shape[1] > matrices.shape[2]
    found = (matrices.mT if tall else matrices).bfloat16()
    found = found / (found.norm(dim=(1, 2), keepdim=True) * 1.02 + 1e-7)
    for a, b, c in _STEPS:
        square = found @ found.mT
        found = a * found + (b * square + c * square @ square) @ found
    return (found.mT if tall else found).float()


class MuonAdam(torch.optim.Optimizer):
    """Muon for hidden matrices, AdamW for all else.

    A Muon step has a root mean square of 0.2 times its rate, as Adam's usually has, whatever the matrix's shape.

    Args:
        hidden: matrices and convolutions of the blocks.
        rest: embeddings, modulation, norms, biases, first and last layer.
        rate, rest_rate: of the two.
        decay: weight decay of both.
    """

    def __init__(
        self,
        hidden: Iterable[nn.Parameter],
        rest: Iterable[nn.Parameter],
        rate: float,
        rest_rate: float,
        decay: float,
    ) -> None:
        groups = [
            {"params": list(hidden), "lr": rate, "orthogonal": True},
            {"params": list(rest), "lr": rest_rate, "orthogonal": False},
        ]
        super().__init__(groups, {"lr": rate, "decay": decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step of both."""
        for group in self.param_groups:
            (self._muon if group["orthogonal"] else self._adam)(group)

    def _muon(self, group: dict[str, Any], inertia: float = 0.95) -> None:
        shapes: dict[tuple[int, ...], list[nn.Parameter]] = {}
        for value in group["params"]:
            if value.grad is not None:
                shapes.setdefault(tuple(value.shape), []).append(value)
        for shape, values in shapes.items():
            moves = []
            for value in values:
                assert value.grad is not None
                state = self.state[value]
                moment = state.setdefault("moment", torch.zeros_like(value))
                moment.lerp_(value.grad, 1 - inertia)
                moves.append(torch.lerp(value.grad, moment, inertia))
            flat = torch.stack(moves).flatten(2)  # a convolution is a matrix of its filters
            scale = 0.2 * math.sqrt(max(flat.shape[1:])) * group["lr"]
            for value, move in zip(values, orthogonal(flat), strict=True):
                value.mul_(1 - group["lr"] * group["decay"]).add_(move.reshape(shape), alpha=-scale)

    def _adam(self, group: dict[str, Any], betas: tuple[float, float] = (0.9, 0.97)) -> None:
        for value in group["params"]:
            if value.grad is None:
                continue
            state = self.state[value]
            count = state.setdefault("step", torch.zeros(()))
            first = state.setdefault("first", torch.zeros_like(value))
            second = state.setdefault("second", torch.zeros_like(value))
            count += 1
            first.lerp_(value.grad, 1 - betas[0])
            second.lerp_(value.grad.square(), 1 - betas[1])
            size = (second / (1 - betas[1] ** count.item())).sqrt_().add_(1e-8)
            value.mul_(1 - group["lr"] * group["decay"])
            value.addcdiv_(first / (1 - betas[0] ** count.item()), size, value=-group["lr"])
