"""Running average of trained tensors: saved in place of the last step's values where a decay is given."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from erase_plugins.engine.adapters import Trainable

_PREFIX = "average."


class Average:
    """Exponential moving average of the tensors of ``adapters``.

    Step n counts at least 9 / (10 + n): a short run would otherwise keep mostly its start.

    Args:
        adapters: what is trained; its values now are the start.
        decay: share of the average that a late step keeps, in 0..1.
    """

    def __init__(self, adapters: Trainable, decay: float) -> None:
        self.adapters, self.decay = adapters, decay
        self.values = {name: part.detach().clone() for name, part in adapters.named_parameters().items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Takes in the values after step number ``step``."""
        share = 1.0 - min(self.decay, (1 + step) / (10 + step))
        for name, part in self.adapters.named_parameters().items():
            self.values[name].lerp_(part.detach(), share)

    def tensors(self) -> dict[str, Tensor]:
        """The average by name, for a checkpoint."""
        return {f"{_PREFIX}{name}": part for name, part in self.values.items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Inverse of `tensors`; other names are ignored."""
        for name, part in self.values.items():
            part.copy_(tensors[f"{_PREFIX}{name}"])

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """Inside, the adapters hold the average."""
        before = {name: part.detach().clone() for name, part in self.adapters.named_parameters().items()}
        self.adapters.load(self.values)
        try:
            yield
        finally:
            self.adapters.load(before)

    def settle(self) -> None:
        """Leaves the average in the adapters."""
        self.adapters.load(self.values)
