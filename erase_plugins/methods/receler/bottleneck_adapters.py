"""Trainable bottleneck networks behind cross-attention: add-ons that see its output and add to it (Receler)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from erase_plugins.artifacts.edit import AddOn, Delta
from erase_plugins.engine.adapters import Slot, Trainable
from erase_plugins.errors import RequestError
from erase_plugins.families.base import ModuleRef, Target

_PARTS = ("down", "bias", "up", "up_bias")


class Erasers(Trainable):
    """One eraser E(o) = up gelu(down o + bias) + up_bias behind each module: its output o becomes o + E(o).

    Args:
        target: the model.
        refs: modules whose output is (batch, places, dim); ``shape[0]`` is dim.
        rank: width of the bottleneck.
        generator: fills "down" and "bias" as a linear layer does; "up" starts at zero, so the start is the teacher.

    Raises:
        RequestError: a rank that is no bottleneck.
    """

    slots: list[EraserSlot]  # type: ignore[assignment]

    def __init__(
        self, target: Target, refs: Sequence[ModuleRef], rank: int, generator: torch.Generator | None = None
    ) -> None:
        narrow = min(ref.shape[0] for ref in refs)
        if rank >= narrow:
            raise RequestError(f"rank={rank} is no bottleneck for layers of {narrow}; use a smaller rank")
        super().__init__(target, [EraserSlot(ref, target.module(ref), rank, generator) for ref in refs])

    @contextmanager
    def recording(self) -> Iterator[dict[str, Tensor]]:
        """Inside, every pass leaves the erasers' own outputs (batch, places, dim) in the yielded dictionary."""
        seen: dict[str, Tensor] = {}
        for slot in self.slots:
            slot.seen = seen
        try:
            yield seen
        finally:
            for slot in self.slots:
                slot.seen = None


class EraserSlot(Slot):
    """One eraser."""

    def __init__(self, ref: ModuleRef, module: nn.Module, rank: int, generator: torch.Generator | None) -> None:
        self.ref, self.module, dim = ref, module, ref.shape[0]
        device = next(module.parameters()).device
        bound = dim**-0.5
        down, bias = ((2 * torch.rand(shape, generator=generator) - 1) * bound for shape in ((rank, dim), (rank,)))
        tensors = {"down": down, "bias": bias, "up": torch.zeros(dim, rank), "up_bias": torch.zeros(dim)}
        self.tensors = {name: nn.Parameter(part.to(device)) for name, part in tensors.items()}
        self.seen: dict[str, Tensor] | None = None

    def parts(self) -> list[tuple[str, nn.Parameter]]:
        return [(name, self.tensors[name]) for name in _PARTS]

    def deltas(self) -> dict[str, Delta]:
        weights = {name: part.detach().cpu().clone() for name, part in self.tensors.items()}
        return {self.ref.path: AddOn("bottleneck", weights, {"activation": "gelu"})}

    def residual(self, out: Tensor) -> Tensor:
        """E(o) for (..., dim), float32 unless under autocast."""
        parts = self.tensors
        wide = out if torch.is_autocast_enabled(out.device.type) else out.to(parts["down"].dtype)
        inner = functional.gelu(functional.linear(wide, parts["down"], parts["bias"]))
        return functional.linear(inner, parts["up"], parts["up_bias"])

    def attach(self, owner: Trainable) -> None:
        def after(_module: nn.Module, _args: Any, out: Tensor) -> Tensor | None:
            if not owner.enabled:
                return None
            extra = self.residual(out)
            if self.seen is not None:
                self.seen[self.ref.path] = extra.float()
            return out + extra.to(out.dtype)

        self._handle = self.module.register_forward_hook(after)

    def detach(self) -> None:
        self._handle.remove()
