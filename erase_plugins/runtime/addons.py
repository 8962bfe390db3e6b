"""Added modules: what no weight change can express. The runtime class is looked up by the add-on's type."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from erase_plugins.artifacts.edit import AddOn, Delta
from erase_plugins.artifacts.gated import GATE, GATED
from erase_plugins.artifacts.prompt_guards import SURGERY, VALUES
from erase_plugins.artifacts.sparse_features import FEATURES
from erase_plugins.artifacts.standin import without_stand_in
from erase_plugins.artifacts.token_gate import TOKEN_GATE
from erase_plugins.errors import BaseMismatch, PipelineChanged, Unsupported
from erase_plugins.runtime.gated_changes import AttachedLowRank
from erase_plugins.runtime.gates import AttachedGate
from erase_plugins.runtime.guardrails.watch import AttachedGuard
from erase_plugins.runtime.prompt_guards import AttachedSurgery, ValueProjection
from erase_plugins.runtime.sparse_features import SparseFeatures
from erase_plugins.runtime.token_gate import TokenGate


class Bottleneck(nn.Module):
    """Residual bottleneck of lightweight erasers (Receler): out + strength * (up act(down out + bias) + up_bias)."""

    def __init__(self, weights: dict[str, Tensor], activation: str) -> None:
        super().__init__()
        shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
        down, up = shapes.get("down", ()), shapes.get("up", ())
        fits = len(down) == len(up) == 2 and down == up[::-1] and shapes.get("bias", down[:1]) == down[:1]
        if not fits or shapes.get("up_bias", up[:1]) != up[:1] or set(shapes) - {"down", "up", "bias", "up_bias"}:
            raise Unsupported(
                "a bottleneck add-on needs down (r, dim), up (dim, r), maybe bias (r,) and up_bias (dim,), "
                f"not {shapes}"
            )
        for name in ("down", "up"):
            self.register_buffer(name, weights[name])
        self.register_buffer("bias", weights.get("bias", torch.zeros(down[0])))
        self.register_buffer("up_bias", weights.get("up_bias", torch.zeros(up[0])))
        if activation not in _ACTIVATIONS:
            raise Unsupported(f"unknown activation '{activation}' in an add-on; known: {', '.join(_ACTIVATIONS)}")
        self.activation = _ACTIVATIONS[activation]

    def forward(self, x: Tensor) -> Tensor:
        """Residual for (..., dim)."""
        names = ("down", "up", "bias", "up_bias")
        down, up, bias, shift = (self.get_buffer(name).to(x.device, x.dtype) for name in names)
        return self.activation(x @ down.T + bias) @ up.T + shift


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": nn.functional.gelu,
    "relu": nn.functional.relu,
    "silu": nn.functional.silu,
    "identity": lambda x: x,
}
ADDON_TYPES: dict[str, Callable[[AddOn], nn.Module]] = {
    "bottleneck": lambda addon: Bottleneck(
        without_stand_in(addon.weights), str(addon.config.get("activation", "gelu"))
    ),
    VALUES: lambda addon: ValueProjection(addon.weights, addon.config),
    FEATURES: lambda addon: SparseFeatures(addon.weights),
    TOKEN_GATE: lambda addon: TokenGate(addon.weights),
}


class AttachedAddOn:
    """An add-on behind one module; `detach` takes it off."""

    def __init__(self, module: nn.Module, addon: AddOn, strength: float, path: str = "") -> None:
        if addon.type not in ADDON_TYPES:
            raise Unsupported(f"unknown add-on type '{addon.type}'; known: {', '.join(ADDON_TYPES)}")
        self.strength = strength
        self.scale = float(addon.config.get("strength", 1.0))
        self.network = ADDON_TYPES[addon.type](addon)
        self.path, self.module = path, module
        self.handle = module.register_forward_hook(self._add)

    def keep(self, owner: nn.Module) -> None:
        """Follows a module that was replaced or wrapped, before a pass of its component.

        Raises:
            PipelineChanged: there is no such module any more.
        """
        try:
            module = owner.get_submodule(self.path)
        except AttributeError:
            raise PipelineChanged(f"the module added behind {self.path} has lost it; remove() the edit") from None
        if module is not self.module or self.handle.id not in module._forward_hooks:
            self.handle.remove()
            self.module = module
            self.handle = module.register_forward_hook(self._add)

    def _add(self, _module: nn.Module, _args: Any, output: Tensor) -> Tensor | None:
        factor = self.strength * self.scale
        return None if factor == 0.0 else output + factor * self.network(output)

    def detach(self) -> None:
        """Restores the module."""
        self.handle.remove()


#: anything that hangs on a module: has a ``strength``, can ``keep`` its place and ``detach``
Attached = AttachedAddOn | AttachedGate | AttachedLowRank | AttachedGuard | AttachedSurgery


def attach_group(
    owner: nn.Module, group: Mapping[str, Delta], strength: float, encoder: nn.Module | None = None
) -> list[Attached]:
    """Hangs all add-ons of one component on it, the gate first; all of them or none.

    Args:
        owner: the component.
        group: module path -> `AddOn`; the gate of the edit at key `GATE`.
        strength: of the edit.
        encoder: the text encoder that a gate may watch for its concept's name.

    Raises:
        BaseMismatch: no such module.
        Unsupported: an add-on that cannot work, a gated change without a gate.
    """
    done: list[Attached] = []
    gate: AttachedGate | None = None
    try:
        for path in sorted(group, key=lambda key: (key != GATE, key)):
            addon = group[path]
            assert isinstance(addon, AddOn)
            if path == GATE:
                gate = AttachedGate(owner, addon, encoder)
                done.append(gate)
            elif addon.type == SURGERY:
                done.append(AttachedSurgery(owner, addon, strength))
            elif addon.type == GATED:
                if gate is None:
                    raise Unsupported(f"{path} is a gated change, but the edit has no gate")
                done.append(AttachedLowRank(_module(owner, path), addon, gate, strength, path))
            else:
                done.append(AttachedAddOn(_module(owner, path), addon, strength, path))
    except BaseException:
        for item in done:
            item.detach()
        raise
    return done


def _module(owner: nn.Module, path: str) -> nn.Module:
    try:
        return owner.get_submodule(path)
    except AttributeError:
        raise BaseMismatch(f"no module {path} to hang an add-on on; nothing was changed") from None
