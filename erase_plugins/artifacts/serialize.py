"""Edit <-> flat tensors and a JSON description: the content of our patch file."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from erase_plugins.artifacts.edit import CONTEXT, DELTA_TYPES, AddOn, ContextMap, Delta, Dense, Edit, is_bias
from erase_plugins.errors import CorruptArtifact, EraseError
from erase_plugins.plain_text import an

SEPARATOR = "|"
STATISTICS = "statistics"
HEADER_KEY = "erase_plugins.edit"
#: 2 where a map of many directions is stored as one matrix
SCHEMA = 2
#: largest weight that a change may describe; beyond it a few stored numbers would unfold into an absurd tensor
_LARGEST = 2**31
#: (kind, field) of a dense change of one dimension in files, whose reader of 0.1 knows no other name for it
_BIAS = ("bias", "db")
#: (kind, field) of a map as one matrix
_WHOLE = ("contextmap", "K")


def edit_to_tensors(edit: Edit) -> tuple[dict[str, Tensor], str]:
    """Tensors by name ("unet|path.weight|lowrank|A") and the JSON text for the header."""
    tensors: dict[str, Tensor] = {}
    addons: dict[str, Any] = {}
    schema = 1
    for component, key, delta in edit.items():
        if isinstance(delta, ContextMap) and delta.is_wide:
            schema = SCHEMA
            tensors[SEPARATOR.join((component, key, *_WHOLE))] = delta.whole()
            continue
        for field, tensor in delta.tensors().items():
            stored = _BIAS if is_bias(delta) else (delta.kind, field)
            tensors[SEPARATOR.join((component, key, *stored))] = tensor.detach().cpu().contiguous().clone()
        if isinstance(delta, AddOn):
            addons[f"{component}{SEPARATOR}{key}"] = {"type": delta.type, "config": dict(delta.config)}
    for name, tensor in edit.statistics.items():
        tensors[f"{STATISTICS}{SEPARATOR}{name}"] = tensor.detach().cpu().contiguous().clone()
    text = {"schema": schema, "family": edit.family, "addons": addons, "meta": dict(edit.meta)}
    return tensors, json.dumps(text, sort_keys=True, separators=(",", ":"))


def edit_from_tensors(tensors: Mapping[str, Tensor], description: str) -> Edit:
    """Inverse of `edit_to_tensors`.

    Raises:
        CorruptArtifact: names, fields or description that the format does not have.
    """
    try:
        data = json.loads(description)
        json.dumps(data, ensure_ascii=False).encode()  # refuses nesting and characters that could not be written again
        family, meta, addons, schema = data["family"], data["meta"], data["addons"], data["schema"]
        kinds = (str, dict, dict, int)
        if not all(isinstance(value, kind) for value, kind in zip((family, meta, addons, schema), kinds, strict=True)):
            raise TypeError("wrong type")
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise CorruptArtifact("the edit description in the header is damaged; fetch the artifact again") from error
    if schema > SCHEMA:
        raise CorruptArtifact(f"the edit has schema {schema}, this version reads up to {SCHEMA}; update erase-plugins")
    fields: dict[tuple[str, str, str], dict[str, Tensor]] = {}
    statistics: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        parts = name.split(SEPARATOR)
        if parts[0] == STATISTICS and len(parts) == 2:
            statistics[parts[1]] = tensor
        elif len(parts) == 4:
            fields.setdefault((parts[0], parts[1], parts[2]), {})[parts[3]] = tensor
        else:
            raise CorruptArtifact(f"tensor '{name[:80]}' does not belong in an edit")
    deltas: dict[str, dict[str, Delta]] = {}
    for (component, key, kind), group in fields.items():
        if key in deltas.get(component, {}):
            raise CorruptArtifact(f"{component} {key} is changed twice")
        entry = addons.get(f"{component}{SEPARATOR}{key}")
        deltas.setdefault(component, {})[key] = _delta(f"{component} {key}", kind, group, entry)
    return Edit(family, deltas, statistics, meta)


def _delta(where: str, kind: str, group: dict[str, Tensor], addon: Any) -> Delta:
    try:
        delta: Delta
        if kind == "addon":
            delta = AddOn(str(addon["type"]), group, dict(addon["config"]))
        elif (kind, *group) == _WHOLE:
            delta = ContextMap.of_whole(group[_WHOLE[1]])
        elif kind == _BIAS[0]:
            delta = Dense(group.pop(_BIAS[1]))
            if group or delta.dW.ndim != 1:
                raise CorruptArtifact(f"{where}: a bias change has one dimension")
        else:
            delta = DELTA_TYPES[kind](**group)
        if (kind == "contextmap") != where.endswith(f" {CONTEXT}"):
            raise CorruptArtifact(f"{where}: {an(kind)} change has no place there")
        check_delta(where, delta)
        return delta
    except EraseError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CorruptArtifact(f"{where[:120]}: not a valid {kind[:40]} change") from error


#: what is no floating point tensor
_INTEGERS = {("rows", "index"), ("sparse", "mask"), ("sparse", "shape")}


def check_delta(where: str, delta: Any) -> None:
    """Inner consistency of a delta (ranks agree, index and values agree).

    Raises:
        CorruptArtifact: says what does not fit.
    """
    kind = delta.kind
    for name, tensor in delta.tensors().items():
        if (kind, name) not in _INTEGERS and (not tensor.is_floating_point() or tensor.element_size() < 2):
            raise CorruptArtifact(f"{where}: {name} is not a floating point tensor of 16 bits or more")
        if kind != "rows" and (not tensor.numel() or tensor.numel() > _LARGEST):
            raise CorruptArtifact(f"{where}: {name} of shape {tuple(tensor.shape)} is empty or too large")
    if kind in ("lowrank", "contextmap"):
        if delta.A.ndim not in (2, 4) or delta.B.ndim not in (2, 4) or delta.A.shape[0] != delta.B.shape[1]:
            raise CorruptArtifact(f"{where}: shapes {tuple(delta.A.shape)} and {tuple(delta.B.shape)} do not multiply")
        if delta.A.shape[0] == 0 or (delta.B.ndim == 4 and tuple(delta.B.shape[2:]) != (1, 1)):
            raise CorruptArtifact(f"{where}: rank 0 or a spatial up matrix")
        if delta.B.shape[0] * math.prod(delta.A.shape[1:]) > _LARGEST:
            raise CorruptArtifact(f"{where}: a weight of {delta.B.shape[0]} x {tuple(delta.A.shape[1:])} is too large")
        if kind == "contextmap" and (delta.A.ndim, delta.B.ndim, delta.B.shape[0]) != (2, 2, delta.A.shape[1]):
            raise CorruptArtifact(f"{where}: a context map must be square")
    elif kind == "dense" and delta.dW.ndim not in (1, 2, 3, 4):
        raise CorruptArtifact(f"{where}: a parameter has one to four dimensions, not {delta.dW.ndim}")
    elif kind == "sparse":
        _check_sparse(where, delta)
    elif kind == "addon":
        strength = delta.config.get("strength", 1.0)
        if isinstance(strength, bool) or not isinstance(strength, int | float) or not abs(strength) <= 100:
            raise CorruptArtifact(f"{where}: strength {str(strength)[:40]} of the added module is not a usable number")
    elif kind == "rows":
        if delta.index.dtype != torch.int64 or delta.index.ndim != 1 or delta.values.ndim != 2:
            raise CorruptArtifact(f"{where}: rows need an int64 index and two-dimensional values")
        if delta.index.shape[0] != delta.values.shape[0]:
            raise CorruptArtifact(f"{where}: {delta.index.shape[0]} indices for {delta.values.shape[0]} rows")


def _check_sparse(where: str, delta: Any) -> None:
    """The mask has one bit for each value of the parameter, and as many ones as there are values."""
    fits = delta.mask.dtype == torch.uint8 and delta.shape.dtype == torch.int64 and delta.values.ndim == 1
    size = delta.shape.tolist() if fits and delta.mask.ndim == delta.shape.ndim == 1 else []
    if not 1 <= len(size) <= 4 or min(size) < 1 or math.prod(size) > _LARGEST:
        raise CorruptArtifact(f"{where}: a sparse change needs a mask of bytes, values and a shape")
    spare = -math.prod(size) % 8
    if delta.mask.shape[0] != (math.prod(size) + spare) // 8 or int(delta.mask[-1]) % 2**spare:
        raise CorruptArtifact(f"{where}: the mask does not fit a parameter of {tuple(size)}")
    ones = sum(int((delta.mask >> bit & 1).sum()) for bit in range(8))
    if ones != delta.values.shape[0]:
        raise CorruptArtifact(f"{where}: {ones} places for {delta.values.shape[0]} values")
