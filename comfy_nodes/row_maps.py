"""Maps of text rows on a MODEL: carried by the weights that read the rows, or hung in front of them.

In the weights, W becomes W + W B A, so every node of ComfyUI that saves or merges a model takes the erasure along. It
still acts as a map in front of them would: behind every LoRA, whichever node comes first, and maps of several nodes add
up. Weights that would round it away, such as fp8, keep it in front.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any
from uuid import uuid4

import torch
from torch import Tensor

from erase_plugins.artifacts.edit import ContextMap
from erase_plugins.errors import BaseMismatch
from erase_plugins.runtime.context import ActiveMap, ContextHook

from .naming import reads_pooled

#: ComfyUI's kind of wrapper around a denoiser with its conditions, and where ours lie
_APPLY, _KEY = "apply_model", "erase_plugins_rows"


@dataclass(eq=False)
class HungMap(ActiveMap):
    """A map as it hangs on a MODEL; by its name it is found again on clones, and after a move to another device."""

    name: str = field(default_factory=lambda: uuid4().hex)


class ContextPatch:
    """attn2 patch: maps the text rows in front of every key and value projection; several maps add up."""

    def __init__(self, maps: tuple[ActiveMap, ...]) -> None:
        self.maps = maps

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, _extra: dict[str, Any]) -> tuple[Tensor, ...]:
        mapped = ContextHook.apply(key, list(self.maps))
        return query, mapped, mapped if value is key else ContextHook.apply(value, list(self.maps))

    def mapped(self, rows: Tensor) -> Tensor:
        """Text rows (..., width) as key and value projections get them."""
        return ContextHook.apply(rows, list(self.maps))

    def to(self, device: Any) -> ContextPatch:
        """Called when the model moves."""
        place = device if isinstance(device, torch.device | str) else None
        if place is None:
            return self
        moved = (replace(item, delta=ContextMap(item.delta.A.to(place), item.delta.B.to(place))) for item in self.maps)
        return type(self)(tuple(moved))

    def tensors(self) -> list[Tensor]:
        """Everything that decides what it does."""
        strengths = torch.tensor([item.strength for item in self.maps])
        return [strengths, *(part for item in self.maps for part in (item.delta.A, item.delta.B))]

    def __deepcopy__(self, _memo: Any) -> ContextPatch:
        return self  # never changed after it was made, and clones of a MODEL copy their options deeply


class DoorPatch(ContextPatch):
    """Wrapper around a flow transformer: maps token rows and the pooled row in front of the layers that read them."""

    def __call__(  # type: ignore[override]
        self,
        executor: Any,
        x: Tensor,
        t: Tensor,
        c_concat: Any = None,
        c_crossattn: Any = None,
        *more: Any,
        **named: Any,
    ) -> Any:
        maps = list(self.maps)
        if named.get("y") is not None:
            width = maps[0].delta.A.shape[1]
            named["y"] = ContextHook.apply(named["y"], maps, behind=width - named["y"].shape[-1])
        return executor(x, t, c_concat, ContextHook.apply(c_crossattn, maps), *more, **named)


class RowMap:
    """Weight patch W + W B A of the columns that W reads, worked out when ComfyUI patches or saves the weight.

    Args:
        loaded_keys: all weights that it hangs on.
        weights: A (rank, width) and B (width, rank), the strength in B. ComfyUI may make it anew from these two.
    """

    name = "erase_plugins_row_map"

    def __init__(self, loaded_keys: set[str], weights: Sequence[Tensor]) -> None:
        self.loaded_keys, self.weights = loaded_keys, list(weights)
        #: the single maps behind the sum; empty where ComfyUI made it anew
        self.parts: list[ActiveMap] = []

    @property
    def active(self) -> ActiveMap:
        """The same as a map in front of the weights."""
        return ActiveMap(ContextMap(self.weights[0], self.weights[1]))

    def calculate_weight(
        self, weight: Tensor, key: str, strength: float, _strength_model: float, _offset: Any, function: Any,
        *_: Any, **__: Any,
    ) -> Tensor:  # fmt: skip
        """ComfyUI's question; the weight (outputs, width) is changed in place, the change computed in float32."""
        A, B = (part.to(weight.device, torch.float32) for part in self.weights)
        count = weight.shape[1]
        columns = slice(len(B) - count, None) if reads_pooled(key) else slice(0, count)
        A, B = A[:, columns], B[columns]
        weight += function(strength * ((weight.float() @ B) @ A)).to(weight.dtype)
        return weight

    def calculate_shape(self, _key: str) -> None:
        """The shape stays."""
        return


class _MapLast(list[Any]):
    """Patches of one weight. What is added to the weight later, such as a LoRA, goes in front of the map.

    Merges scale or replace what is there, the erasure with it; they go behind.
    """

    def append(self, patch: Any) -> None:
        _, change, strength_model, *_ = patch
        added = strength_model == 1.0 and not isinstance(change, list)  # lists are other models
        if added and self and isinstance(self[-1][1], RowMap):
            self.insert(len(self) - 1, patch)
        else:
            super().append(patch)

    def __getitem__(self, place: Any) -> Any:
        found = super().__getitem__(place)
        return _MapLast(found) if isinstance(place, slice) else found  # clones slice


@cache
def _kind() -> type[Any]:
    """`RowMap` as a weight adapter of ComfyUI."""
    from comfy.weight_adapter import WeightAdapterBase

    return type("ErasedRows", (RowMap, WeightAdapterBase), {})


def carried(model: Any) -> RowMap | None:
    """The map in the weights of a MODEL; None if there is none, or if a merge came behind it and mixed it in."""
    patches = getattr(model, "patches", {})
    last = next((found[-1][1] for found in patches.values() if found and isinstance(found[-1][1], RowMap)), None)
    if last is None or not all(patches.get(key) and patches[key][-1][1] is last for key in last.loaded_keys):
        return None
    return last


def in_front(model: Any) -> list[Any]:
    """Patches of ours that map text rows in front of the weights."""
    return [patch for found in _lists(model) for patch in found if hasattr(patch, "mapped")]


def seen(model: Any, rows: Tensor) -> Tensor:
    """Text rows (..., width) as keys and values see them, under all our maps; others' patches need more than rows."""
    for patch in in_front(model):
        rows = patch.mapped(rows)
    inside = carried(model)
    return rows if inside is None else ContextHook.apply(rows, [inside.active])


def hang_in_weights(model: Any, keys: Iterable[str], item: ActiveMap) -> Any:
    """A clone whose weights carry one more map.

    Args:
        model: ModelPatcher.
        keys: all weights that read text rows.
        item: the map.

    Raises:
        BaseMismatch: ComfyUI does not take it.
    """
    clone = model.clone()
    _carry(clone, set(keys), [*_take_off(clone), _named(item)])
    return clone


def _carry(clone: Any, wanted: set[str], maps: list[ActiveMap]) -> None:
    """Lets the weights of a clone carry maps, where none is carried now."""
    A = torch.cat([part.delta.A.float() for part in maps])
    B = torch.cat([part.strength * part.delta.B.float() for part in maps], dim=1)
    patch = _kind()(wanted, [A, B])
    patch.parts = maps
    accepted = clone.add_patches(dict.fromkeys(sorted(wanted), patch))
    if len(accepted) != len(wanted):
        raise BaseMismatch(f"ComfyUI took {len(accepted)} of {len(wanted)} patches; nothing was changed")
    for key in wanted:
        clone.patches[key] = _MapLast(clone.patches[key])


def hang_in_front(model: Any, item: ActiveMap, doors: bool = False) -> Any:
    """A clone whose context patch holds one more map; one in the weights moves there, so that they add up.

    Args:
        model: ModelPatcher.
        item: the map.
        doors: the denoiser reads text through two layers instead of cross-attention.
    """
    clone = model.clone()
    maps = (*_take_off(clone), _named(item))
    for patches in _lists(clone):
        for index, patch in enumerate(patches):
            if isinstance(patch, ContextPatch):
                patches[index] = type(patch)((*patch.maps, *maps))
                return clone
    if doors:
        clone.add_wrapper_with_key(_APPLY, _KEY, DoorPatch(maps))
    else:
        clone.set_model_attn2_patch(ContextPatch(maps))
    return clone


def names(model: Any) -> list[str]:
    """Names of all maps of ours that hang on a MODEL, whether in its weights or in front of them."""
    inside = carried(model)
    maps = [] if inside is None else list(inside.parts)
    maps += [item for patch in in_front(model) for item in getattr(patch, "maps", ())]
    return [item.name for item in maps if isinstance(item, HungMap)]


def without(model: Any, gone: Collection[str]) -> Any:
    """A clone without the maps of these names; all else that hangs on it stays."""
    clone = model.clone()
    inside = carried(clone)
    left = [item for item in _take_off(clone) if getattr(item, "name", "") not in gone]
    if inside is not None and left:
        _carry(clone, inside.loaded_keys, left)
    for patches in _lists(clone):
        for index, patch in reversed(list(enumerate(patches))):
            if isinstance(patch, ContextPatch):
                stay = tuple(item for item in patch.maps if getattr(item, "name", "") not in gone)
                patches[index : index + 1] = [type(patch)(stay)] if stay else []
    return clone


def _named(item: ActiveMap) -> HungMap:
    return HungMap(item.delta, item.strength)


def _lists(model: Any) -> list[list[Any]]:
    """Lists that patches in front of weights lie in, of text attention and our wrappers; a clone's may be changed."""
    attention = model.model_options.get("transformer_options", {}).get("patches", {}).get("attn2_patch", [])
    return [attention, getattr(model, "wrappers", {}).get(_APPLY, {}).get(_KEY, [])]


def _take_off(clone: Any) -> list[ActiveMap]:
    """Takes the map out of the weights of a clone."""
    found = carried(clone)
    if found is None:
        return []
    for key in found.loaded_keys:
        del clone.patches[key][-1]
        if not clone.patches[key]:
            del clone.patches[key]
    clone.patches_uuid = uuid4()  # ComfyUI tells by it that weights differ
    return list(found.parts) or [found.active]
