"""Low-rank changes behind the gates of an edit (`runtime.gates`), one by one or all of a layer behind one hook."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from erase_plugins.artifacts.edit import AddOn
from erase_plugins.artifacts.fingerprint import stated_shape
from erase_plugins.artifacts.gated import gate_list, gated_product
from erase_plugins.errors import PipelineChanged, Unsupported
from erase_plugins.runtime.gates import GateReader
from erase_plugins.runtime.integrity import PROJECTIONS, is_fused


class GatedChange:
    """A low-rank change of one module behind the gates of its edit; hangs nowhere.

    Attributes:
        strength: may be changed.
    """

    def __init__(self, module: nn.Module, addon: AddOn, gate: GateReader, strength: float) -> None:
        numbers = gate_list(addon)
        down, up = addon.weights["down"], addon.weights["up"]
        fits = down.ndim in (2, 4) and up.ndim == down.ndim and up.shape[1] == down.shape[0] == len(numbers)
        if not fits or set(addon.weights) != {"down", "up"}:
            raise Unsupported(f"a gated change needs down (r, in) and up (out, r), not {down.shape} and {up.shape}")
        if max(numbers) >= gate.count or min(numbers) < 0:
            raise Unsupported(f"a gated change names gate {max(numbers)}, the edit has {gate.count}")
        self.gate, self.strength = gate, strength
        self.scale = float(addon.config.get("strength", 1.0))
        self.numbers = torch.tensor(numbers)
        self.down, self.up = down, up
        self._chosen: tuple[Any, ...] = ()
        self.set_layer(module)
        shape = stated_shape(self.layer.get_parameter("weight"))
        if (up.shape[0], down[0].numel()) != (shape[0], prod(shape[1:])):
            raise Unsupported(f"a gated change is {up.shape[0]} x {tuple(down.shape[1:])}, weight {shape}")

    def set_layer(self, module: nn.Module) -> None:
        """Takes the operation from ``module``, the layer inside where peft has wrapped it."""
        self.layer: nn.Module = getattr(module, "base_layer", module)

    def added(self, x: Tensor, output: Tensor) -> Tensor:
        """The module's output for ``x`` with the change, as far as the gates are open; ``output`` itself if closed."""
        factor = self.strength * self.scale
        if factor == 0.0 or not self.gate.active:
            return output
        down, up, gates = self._behind_open(x)
        if not len(down):
            return output
        gates = gates * factor
        if len(x) % len(gates):
            raise Unsupported(
                f"a layer was called with {len(x)} of {len(gates)} samples (perturbed-attention guidance?), which a "
                "gate cannot follow; remove the artifact, draw without PAG, or use an artifact without gates"
            )
        if len(gates) != len(x):  # frames of one prompt follow each other
            gates = gates.repeat_interleave(len(x) // len(gates), 0)
        return output + gated_product(self.layer, x, down, up, gates).to(output.dtype)

    def _behind_open(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Directions behind gates that are open for some sample: down (r, in), up (out, r), gates (batch, r).

        Chosen once for every reading of the gate, so that closed gates cost nothing.
        """
        wanted = (self.gate.reading, x.device, x.dtype)
        if self._chosen[:1] != (wanted,):
            rows = self.gate.open[self.numbers].nonzero()[:, 0]
            if len(rows) == len(self.numbers):  # kept where the layer is, for the next prompt
                self.down, self.up = down, up = self.down.to(x.device, x.dtype), self.up.to(x.device, x.dtype)
            else:
                down, up = self.down[rows.to(self.down.device)], self.up[:, rows.to(self.up.device)]
            gates = self.gate.table[:, self.numbers[rows].to(self.gate.table.device)]
            self._chosen = (wanted, (down.to(x.device, x.dtype), up.to(x.device, x.dtype), gates.to(x.device)))
        found: tuple[Tensor, Tensor, Tensor] = self._chosen[1]
        return found


class GatedLayer:
    """All gated changes of one layer behind one hook, which asks only those whose gates are open."""

    def __init__(self, layer: nn.Module) -> None:
        self.changes: list[AttachedLowRank] = []
        self.handle: RemovableHandle
        self.move(layer)

    @classmethod
    def of(cls, layer: nn.Module) -> GatedLayer:
        """What hangs on a layer already, or something new."""
        owners = (getattr(hook, "__self__", None) for hook in layer._forward_hooks.values())
        return next((owner for owner in owners if isinstance(owner, cls)), None) or cls(layer)

    def move(self, layer: nn.Module) -> None:
        """Hangs on another layer from now on."""
        if self.changes:
            self.handle.remove()
        self.layer, self.handle = layer, layer.register_forward_hook(self._add)

    @property
    def hangs(self) -> bool:
        """Whether the hook is still there."""
        return self.handle.id in self.layer._forward_hooks

    def _add(self, _module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        for change in self.changes:
            if change.gate.active:
                output = change.added(args[0], output)
        return output

    def leave(self, change: AttachedLowRank) -> None:
        """One change less; with the last one the hook goes."""
        self.changes = [item for item in self.changes if item is not change]
        if not self.changes:
            self.handle.remove()


class AttachedLowRank(GatedChange):
    """A gated change that hangs on its layer, below any LoRA, which may come and go."""

    def __init__(self, module: nn.Module, addon: AddOn, gate: GateReader, strength: float, path: str = "") -> None:
        super().__init__(module, addon, gate, strength)
        self.path = path
        self.place = GatedLayer.of(self.layer)
        self.place.changes.append(self)

    def keep(self, owner: nn.Module) -> None:
        """Follows a layer that was replaced, before a pass of its component; one change looks for all of a layer.

        Raises:
            PipelineChanged: nothing calls the layer any more.
        """
        if self.place.changes[0] is not self:
            return
        parent, _, leaf = self.path.rpartition(".")
        try:
            attention = owner.get_submodule(parent)
            module = attention.get_submodule(leaf)
        except AttributeError:
            raise PipelineChanged(f"the gated change of {self.path} has lost its layer; remove() the edit") from None
        if leaf in PROJECTIONS and is_fused(attention):
            raise PipelineChanged(
                f"the gated change of {self.path} is passed by since the projections were fused; call "
                "unfuse_qkv_projections() first, or remove() the edit"
            )
        layer = getattr(module, "base_layer", module)
        if layer is not self.layer or not self.place.hangs:
            for change in self.place.changes:
                change.set_layer(module)
            self.place.move(layer)

    def detach(self) -> None:
        """Restores the module."""
        self.place.leave(self)
