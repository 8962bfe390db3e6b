"""All weights of one network in training at once: norms and tokens too, which `engine.adapters` leaves alone.

What is trained are the weights themselves, not their change, so that weight decay pulls them to 0 as in the papers of
full-weight methods. Nothing in the model is written to: its ``forward`` is shadowed and runs on the trained tensors.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.func import functional_call

from erase_plugins.artifacts.edit import Delta, Dense, Sparse
from erase_plugins.artifacts.names import canonical
from erase_plugins.engine.adapters import Slot, Trainable
from erase_plugins.families.base import Model, ModuleRef


class WeightSlot(Slot):
    """One parameter in training.

    Attributes:
        value: what is trained; starts as the base, or as what was given.
        base: the model's own tensor.
        mask: where the trained values count; the base stays elsewhere to the last bit. None: everywhere.
    """

    def __init__(self, component: str, name: str, base: Tensor, start: Tensor | None, mask: Tensor | None) -> None:
        self.ref = ModuleRef(component, name, "parameter", tuple(base.shape), False)
        self.base, self.mask = base.detach(), mask
        wide = base.dtype if base.dtype == torch.float64 else torch.float32
        self.value = nn.Parameter((self.base if start is None else start.detach()).to(base.device, wide).clone())

    @property
    def now(self) -> Tensor:
        """The parameter as the network sees it."""
        value = self.value.to(self.base.dtype)
        return value if self.mask is None else torch.where(self.mask, value, self.base)

    def parts(self) -> list[tuple[str, nn.Parameter]]:
        return [("value", self.value)]

    def deltas(self) -> dict[str, Delta]:
        change = (self.now.detach().to(self.value.dtype) - self.base).float().cpu()
        if not bool(change.any()):
            return {}
        if self.mask is not None:
            return {self.ref.path: Sparse.of(change)}
        return {self.ref.path: Dense(change)}

    def attach(self, owner: Trainable) -> None:
        """Done for all at once by `WholeWeights`."""

    def detach(self) -> None:
        """Done for all at once by `WholeWeights`."""


class WholeWeights(Trainable):
    """Trainable weights of the network that has a capability.

    Args:
        target: the model.
        role: the capability, such as "classifier".
        only: names of the parameters to train; None: all.
        start: values to start from by name, in place of the model's own.
        masks: boolean masks by name, see `WeightSlot`.
        beside: trained along, but no part of the model or of the edit.
        frozen: nothing is trained; the values hold while it is in force.
    """

    def __init__(
        self, target: Model, role: str, only: Collection[str] | None = None, start: Mapping[str, Tensor] | None = None,
        masks: Mapping[str, Tensor] | None = None, beside: Tensor | None = None,
        frozen: bool = False,
    ) -> None:  # fmt: skip
        component = target.info.components(role)[0]
        self.network: nn.Module = target.network(role)  # type: ignore[attr-defined]
        self._raw: dict[str, WeightSlot] = {}
        for raw, parameter in self.network.named_parameters():
            name = canonical(component, raw)
            if only is None or name in only:
                values, mask = (start or {}).get(name), (masks or {}).get(name)
                self._raw[raw] = WeightSlot(component, name, parameter, values, mask)
        super().__init__(target, list(self._raw.values()))
        for slot in self._raw.values() if frozen else ():
            slot.value.requires_grad_(False)
        self.beside = None if beside is None else nn.Parameter(beside.to(target.device))

    @property
    def values(self) -> dict[str, nn.Parameter]:
        """Name of a parameter -> what is trained."""
        return {slot.ref.path: slot.value for slot in self._raw.values()}

    def named_parameters(self) -> dict[str, nn.Parameter]:
        found = super().named_parameters()
        return found if self.beside is None else {**found, "beside": self.beside}

    def mask(self, masks: Mapping[str, Tensor]) -> None:
        """Sets where trained values count; see `WeightSlot`."""
        for slot in self._raw.values():
            slot.mask = masks.get(slot.ref.path)

    def __enter__(self) -> Self:
        super().__enter__()
        original, self._shadowed = self.network.forward, self.network.__dict__.get("forward")
        inside = False

        def forward(*args: Any, **kwargs: Any) -> Any:
            nonlocal inside
            if inside or not self.enabled:
                return original(*args, **kwargs)
            inside = True
            try:
                return functional_call(self.network, {raw: slot.now for raw, slot in self._raw.items()}, args, kwargs)
            finally:
                inside = False

        self.network.forward = forward
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._shadowed is not None:
            self.network.forward = self._shadowed
        else:
            self.network.__dict__.pop("forward", None)
        super().__exit__(kind, error, trace)


def reset(module: nn.Module, seed: int) -> dict[str, Tensor]:
    """New values of a layer's own parameters, as it draws them itself, by name; the layer stays as it is."""
    fresh = copy.deepcopy(module)
    fresh.__dict__.pop("forward", None)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh.reset_parameters()  # type: ignore[operator]
    return {name: part.detach() for name, part in fresh.named_parameters(recurse=False)}
