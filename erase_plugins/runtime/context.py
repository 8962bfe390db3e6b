"""Context maps at run time: every text embedding row is mapped before the denoiser sees it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from erase_plugins.artifacts.edit import ContextMap
from erase_plugins.artifacts.names import CONTEXT_HOOK
from erase_plugins.runtime.integrity import check_hung


@dataclass
class ActiveMap:
    """A map with its strength."""

    delta: ContextMap
    strength: float = 1.0


class ContextHook:
    """One forward hook per denoiser; active maps add up, as weight changes do."""

    def __init__(self, module: nn.Module) -> None:
        self.maps: list[ActiveMap] = []
        self.module = module
        self.handle = module.register_forward_pre_hook(self._map_arguments, with_kwargs=True)

    def keep(self, owner: nn.Module) -> None:
        """Checks before a pass that this one will be mapped.

        Raises:
            PipelineChanged: the hook was taken off.
        """
        check_hung(self.handle, owner._forward_pre_hooks, "the context map")

    def _map_arguments(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        active = [item for item in self.maps if item.strength != 0.0]
        if not active:
            return None
        if "encoder_hidden_states" in kwargs:
            rows, pooled = kwargs["encoder_hidden_states"], kwargs.get("pooled_projections")
            kwargs = {**kwargs, "encoder_hidden_states": self.apply(rows, active)}
            if pooled is not None:
                kwargs["pooled_projections"] = self.apply(pooled, active, behind=rows.shape[-1])
            return args, kwargs
        return (*args[:2], self.apply(args[2], active), *args[3:]), kwargs

    def mapped(self, rows: Tensor) -> Tensor:
        """Rows (..., dim) under the maps that are in force."""
        return self.apply(rows, [item for item in self.maps if item.strength != 0.0])

    @staticmethod
    def apply(rows: Tensor, active: list[ActiveMap], behind: int = 0) -> Tensor:
        """Mapped rows, computed in float32 and cast back.

        Args:
            rows: (..., dim) text rows, or pooled rows.
            active: maps, whose columns of the pooled row stand behind those of the text rows.
            behind: first column of these rows.
        """
        part = slice(behind, behind + rows.shape[-1])
        with torch.autocast(rows.device.type, enabled=False):
            wide = rows.float()
            out = wide
            for item in active:
                delta = item.delta.columns(part)
                A, B = (factor.to(rows.device, torch.float32) for factor in (delta.A, delta.B))
                out = out + item.strength * (wide @ A.T @ B.T)
        return out.to(rows.dtype)


def attach_map(module: nn.Module, item: ActiveMap) -> None:
    """Adds a map to a denoiser."""
    hook = getattr(module, CONTEXT_HOOK, None)
    if hook is None:
        hook = ContextHook(module)
        object.__setattr__(module, CONTEXT_HOOK, hook)
    hook.maps.append(item)


def detach_map(module: nn.Module, item: ActiveMap) -> None:
    """Takes a map away; the hook goes with the last one."""
    hook: ContextHook | None = getattr(module, CONTEXT_HOOK, None)
    if hook is None:
        return
    if item in hook.maps:
        hook.maps.remove(item)
    if not hook.maps:
        hook.handle.remove()
        object.__delattr__(module, CONTEXT_HOOK)
