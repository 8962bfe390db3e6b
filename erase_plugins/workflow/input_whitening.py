"""Changes of "down" factors counted in directions that what must stay hardly uses.

A step of equal size in every entry of a factor A (rank, in) moves its answers most along the directions in which the
inputs are large, above all along their mean, which all prompts share. With H the mean of x x^T over inputs x that must
be answered as before, F = (H / m + ridge I)^(-1/2), m the mean of H's diagonal, makes them alike: A + M F is trained in
M (rank, in), whose entries all matter equally to what stays, while directions that only other inputs use get up to
1 / sqrt(ridge) times as far for the same step. This is the input side of a Kronecker-factored natural gradient
(Martens and Grosse 2015, arXiv 1503.05671), held fixed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from erase_plugins.engine.adapters import LoraSlot


@dataclass
class InputGrams:
    """Mean of x x^T, (in, in) float64 on the CPU, of what modules read; channels are the inputs of a convolution."""

    sums: dict[Any, Tensor] = field(default_factory=dict)
    counts: dict[Any, int] = field(default_factory=dict)

    @contextmanager
    def listening(self, modules: Mapping[Any, nn.Module]) -> Iterator[None]:
        """Inside, every input of these modules is counted under its key."""
        hooks = [module.register_forward_pre_hook(self._counting(key, module)) for key, module in modules.items()]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _counting(self, key: Any, module: nn.Module) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def count(_module: nn.Module, given: tuple[Any, ...]) -> None:
            x = given[0].detach()
            rows = (x.movedim(1, -1) if isinstance(module, nn.Conv2d) else x).flatten(0, -2).float()
            self.sums[key] = self.sums.get(key, 0) + (rows.T @ rows).double().cpu()
            self.counts[key] = self.counts.get(key, 0) + len(rows)

        return count

    def mean(self, key: Any) -> Tensor:
        """Of one module."""
        return self.sums[key] / self.counts[key]


class WhitenedFactor:
    """The "down" factor of a slot as start + M F, with M to be trained.

    Args:
        slot: whose factor it is; holds the sum after `refresh`.
        gram: (in, in) mean of x x^T of what must stay.
        ridge: see the module's text.
        old: the factor whose answers tell how large a step is.
    """

    def __init__(self, slot: LoraSlot, gram: Tensor, ridge: float, old: Tensor) -> None:
        start = slot.A.detach()
        size = gram.diagonal().mean().clamp_min(1e-12)
        values, vectors = torch.linalg.eigh(gram / size)
        root = (vectors * (values.clamp_min(0) + ridge).rsqrt()) @ vectors.T / size.sqrt()
        self.slot, self.start, self.root = slot, start, root.to(start)
        self.M = nn.Parameter(torch.zeros_like(start))
        rows = old.detach().double().cpu().movedim(1, -1).flatten(0, -2)
        #: an answer of the old factor, root of the mean square, over the root of the number of inputs
        self.unit = float(((rows @ gram) * rows).sum(-1).mean().clamp_min(1e-12).sqrt()) / len(gram) ** 0.5

    def refresh(self) -> None:
        """Makes the slot's factor the sum, with a gradient to M."""
        moved = torch.einsum("ri...,io->ro...", self.M, self.root)
        self.slot.A = self.start + moved  # type: ignore[assignment]
