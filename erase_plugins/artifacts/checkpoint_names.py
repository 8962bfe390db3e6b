"""Where the parameters of a model are inside its weight files: diffusers folders and single-file checkpoints.

OpenCLIP text encoders (Stable Diffusion 2, the second one of SDXL) keep query, key and value in one tensor; a slot then
names the rows.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from erase_plugins.artifacts.names import canonical

if TYPE_CHECKING:
    from torch import Tensor

    from erase_plugins.artifacts.tensors import TensorFile

_CROSS = re.compile(r"\battn2\.to_[kv]\.weight$")
_OPEN_CLIP = re.compile(r"^(?P<prefix>.+\.)transformer\.resblocks\.(?P<layer>\d+)\.(?P<rest>.+)$")
_OPEN_CLIP_REST = {
    "attn.out_proj": "self_attn.out_proj", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2", "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
}  # fmt: skip


@dataclass(frozen=True)
class Slot:
    """One parameter: file, tensor name, and the rows of it that are meant (None: all)."""

    file: TensorFile
    name: str
    rows: tuple[int, int] | None = None

    @property
    def dtype(self) -> str:
        """Stored dtype."""
        return self.file.header.tensors[self.name].dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the parameter."""
        whole = self.file.header.tensors[self.name].shape
        return whole if self.rows is None else (self.rows[1] - self.rows[0], *whole[1:])

    def middle(self) -> Tensor:
        """The parameter's middle value, (1,), in its stored dtype, NaN for whole numbers; nothing else is read."""
        entry = self.file.header.tensors[self.name]
        count = math.prod(self.shape)
        size = (entry.end - entry.begin) // max(math.prod(entry.shape), 1)
        first = 0 if self.rows is None else self.rows[0] * math.prod(entry.shape[1:])
        start = entry.begin + (first + count // 2) * size
        found = self.file.values(self.name, start, start + size)
        return found if found.is_floating_point() else found.new_full((1,), float("nan"), dtype=torch.float32)

    def read(self) -> Tensor:
        """The parameter in its stored dtype."""
        whole = self.file.get(self.name)
        return whole if self.rows is None else whole[self.rows[0] : self.rows[1]]


Slots = dict[str, list[Slot]]


def folder_slots(component: str, files: Iterable[TensorFile]) -> Slots:
    """Slots of a component in diffusers naming; several precision variants give several slots."""
    found: Slots = {}
    for file in files:
        for name in file:
            found.setdefault(canonical(component, name), []).append(Slot(file, name))
    return {name: group for name, group in found.items() if not name.endswith("position_ids")}


def find_slots(file: TensorFile, family: Any, config: Mapping[str, Any] | None, component: str = "unet") -> Slots:
    """Slots of a component in a single-file checkpoint."""
    found: Slots = {}
    for name in file:
        stem, _, field = name.rpartition(".")
        place = family.locate("checkpoint", stem, config)
        if place is not None and place[0] == component and field in ("weight", "bias"):
            found[f"{place[1]}.{field}"] = [Slot(file, name)]
    return found or _open_clip_slots(file, family, component)


def _open_clip_slots(file: TensorFile, family: Any, component: str) -> Slots:
    text = [name for name in family.components if name.startswith("text_encoder")]
    if component not in text:
        return {}
    prefix = "cond_stage_model.model." if len(text) == 1 else f"conditioner.embedders.{text.index(component)}.model."
    found: Slots = {}
    for name, entry in file.header.tensors.items():
        match = _OPEN_CLIP.match(name)
        if match is None or match["prefix"] != prefix:
            continue
        layer = f"encoder.layers.{match['layer']}"
        if match["rest"] in ("attn.in_proj_weight", "attn.in_proj_bias"):
            field, width = match["rest"].rpartition("_")[2], entry.shape[0] // 3
            for index, letter in enumerate("qkv"):
                key = f"{layer}.self_attn.{letter}_proj.{field}"
                found[key] = [Slot(file, name, (index * width, (index + 1) * width))]
        else:
            module, _, field = match["rest"].rpartition(".")
            if module in _OPEN_CLIP_REST:
                found[f"{layer}.{_OPEN_CLIP_REST[module]}.{field}"] = [Slot(file, name)]
    return found


def projections(slots: Mapping[str, list[Slot]]) -> list[str]:
    """Weight names of the key and value projections that read the text."""
    return sorted(name for name in slots if _CROSS.search(name))
