"""Rewrites single "down" factors of somebody's LoRA file; names, other tensors, dtypes, alpha and metadata stay."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from erase_plugins.artifacts.edit import LowRank
from erase_plugins.artifacts.tensors import read_tensors, write_tensors
from erase_plugins.errors import ArtifactError, NotFiniteError

if TYPE_CHECKING:
    from erase_plugins.artifacts.family_names import FamilyNames

#: what peft keeps beside its file
PEFT_FILE, PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"
#: header entry of a file that was rewritten
NOTE = "erase_plugins.cleaned"
#: header entries that other programs compute from the tensors; they would be wrong
_HASHES = ("sshs_model_hash", "sshs_legacy_hash", "modelspec.hash_sha256")


def down_names(file: Path, layout: Any, family: FamilyNames) -> dict[tuple[str, str], str]:
    """(component, key of the edit) -> name of the "down" tensor in the file.

    The layout itself tells: it reads a copy in which every tensor is filled with its own number.

    Raises:
        ArtifactError: the layout does not read the file, or changes factors when it does.
    """
    tensors, header = read_tensors(file)
    names = sorted(tensors)
    tagged = {
        name: tensors[name] if tensors[name].numel() == 1 else torch.full(tensors[name].shape, float(place))
        for place, name in enumerate(names, 1)
    }
    with tempfile.TemporaryDirectory(prefix="erase-plugins-") as folder:
        # the folder's name can tell the component
        copy = Path(folder) / (file.parent.name or "lora") / file.name
        copy.parent.mkdir()
        if file.with_name(PEFT_CONFIG).is_file():
            shutil.copyfile(file.with_name(PEFT_CONFIG), copy.with_name(PEFT_CONFIG))
        write_tensors(copy, tagged, header)
        edit = layout.read(copy, family)
    found = {}
    for component, key, delta in edit.items():
        if not isinstance(delta, LowRank):
            continue
        number = float(delta.A.flatten()[0])
        name = names[int(number) - 1] if 1 <= number <= len(names) else ""
        if not name or tuple(tensors[name].shape) != tuple(delta.A.shape) or not bool(delta.A.eq(number).all()):
            raise ArtifactError(f"{file.name}: the factors of {component} {key[:80]} are not stored as they are used")
        found[component, key] = name
    return found


def rewrite(file: Path, place: Path, factors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Writes the file with other factors, each in the dtype that its tensor has.

    Args:
        file: safetensors file that is read.
        place: path to write.
        factors: tensor name -> new values.
        facts: what the header notes.

    Raises:
        NotFiniteError: a value is too large for the dtype.
    """
    tensors, header = read_tensors(file)
    for name, values in factors.items():
        tensors[name] = values.to(tensors[name].dtype).contiguous()
        if not bool(tensors[name].isfinite().all()):
            raise NotFiniteError(f"'{name[:80]}' does not fit into {tensors[name].dtype}")
    kept = {key: value for key, value in header.items() if key not in _HASHES}
    write_tensors(place, tensors, {**kept, NOTE: json.dumps(dict(facts), sort_keys=True)})
