"""Add-ons behind attention layers (lightweight erasers such as Receler's) as attention output patches of a MODEL."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from erase_plugins.artifacts.edit import AddOn
from erase_plugins.errors import Unsupported
from erase_plugins.families.naming import sgm_path
from erase_plugins.runtime.addons import ADDON_TYPES

#: attention layer -> patch list that ComfyUI calls with the layer's output
_LISTS = {"attn1": "attn1_output_patch", "attn2": "attn2_output_patch"}
_SIDES = {"input_blocks": "input", "middle_block": "middle", "output_blocks": "output"}


@dataclass(frozen=True)
class Place:
    """An attention layer as ComfyUI tells patches about it: which list, which block, which transformer in the block."""

    patch: str
    side: str
    number: int
    index: int


def place_of(path: str, config: Mapping[str, Any]) -> Place:
    """Where the output of a diffusers attention module appears.

    Args:
        path: diffusers module path, ending in attn1 or attn2.
        config: UNet configuration in diffusers terms.

    Raises:
        Unsupported: no attention layer of a UNet.
    """
    try:
        parts = sgm_path(path, config).split(".")
        *_, blocks, index, layer = parts
        if blocks != "transformer_blocks" or layer not in _LISTS:
            raise ValueError(path)
        side = _SIDES[parts[0]]
        number = 0 if side == "middle" else int(parts[1])
        return Place(_LISTS[layer], side, number, int(index))
    except (KeyError, IndexError, ValueError):
        raise Unsupported(
            f"an add-on at {path[:80]} has no place in ComfyUI; it must follow an attention layer"
        ) from None


def problem(addon: AddOn, channels: int) -> str:
    """Why an add-on does not fit a layer with this many channels; empty if it does.

    Raises:
        Unsupported: unknown type, or not made as its type asks.
    """
    if addon.type not in ADDON_TYPES:
        raise Unsupported(
            f"add-ons of type '{addon.type[:40]}' cannot be used in ComfyUI; known: {', '.join(ADDON_TYPES)}"
        )
    ADDON_TYPES[addon.type](addon)
    found = addon.weights["down"].shape[1]
    return "" if found == channels else f"add-on is for {found} channels, the layer has {channels}"


class OutputPatch:
    """Adds the residual of each add-on to the output of its layer. Never changed after it was made.

    Args:
        networks: (side, number, index) -> network and factor.
    """

    def __init__(self, networks: Mapping[tuple[str, int, int], tuple[nn.Module, float]]) -> None:
        self.networks = networks

    def __call__(self, output: Tensor, extra: Mapping[str, Any]) -> Tensor:
        found = self.networks.get((extra["block"][0], extra["block"][1], extra["block_index"]))
        return output if found is None else output + found[1] * found[0](output)

    def to(self, device: Any) -> OutputPatch:
        """Called when the model moves."""
        if isinstance(device, torch.device | str):
            for network, _ in self.networks.values():
                network.to(device)
        return self

    def tensors(self) -> list[Tensor]:
        """Everything that decides what it does."""
        return [
            part
            for place, (network, factor) in sorted(self.networks.items(), key=lambda item: item[0])
            for part in (torch.tensor([*place[1:], factor]), *network.buffers())
        ]

    def __deepcopy__(self, _memo: Any) -> OutputPatch:
        return self  # clones of a MODEL copy their options deeply


def hang(clone: Any, addons: Mapping[Place, AddOn], strength: float) -> None:
    """Hangs add-ons on a clone of a MODEL."""
    for name, patch in output_patches(addons, strength).items():
        clone.set_model_patch(patch, name)


def output_patches(addons: Mapping[Place, AddOn], strength: float) -> dict[str, OutputPatch]:
    """Name of a patch list -> the one patch for all its layers."""
    found = {}
    for name in dict.fromkeys(place.patch for place in addons):
        networks = {
            (place.side, place.number, place.index): (
                ADDON_TYPES[addon.type](addon), strength * float(addon.config.get("strength", 1.0)),
            )
            for place, addon in addons.items()
            if place.patch == name
        }  # fmt: skip
        found[name] = OutputPatch(networks)
    return found
