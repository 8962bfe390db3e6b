"""The file with the weights of a head: read without torch; its hash without numpy."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from erase_plugins.artifacts.header import read_header
from erase_plugins.errors import CorruptArtifact

HEAD = "head.safetensors"
#: what was learned; the other tensors of the file were there before the data
LEARNED = "weight"


def tensor_sha256(path: Path) -> str:
    """SHA-256 of the learned numbers in a file (little-endian float64, row by row).

    Raises:
        CorruptArtifact: no sound safetensors file, or it lacks them.
    """
    header = read_header(path)
    entry = header.tensors.get(LEARNED)
    if entry is None or entry.dtype != "F64":
        raise CorruptArtifact(f"{path.name} has no float64 tensor '{LEARNED}'")
    with path.open("rb") as file:
        file.seek(header.start + entry.begin)
        return hashlib.sha256(file.read(entry.end - entry.begin)).hexdigest()


def array_sha256(weights: Any) -> str:
    """The same of an array."""
    import numpy as np

    return hashlib.sha256(np.ascontiguousarray(weights, dtype="<f8").tobytes()).hexdigest()


def read_arrays(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Tensors and string metadata of a file.

    Raises:
        CorruptArtifact: no sound safetensors file.
    """
    from safetensors.numpy import load

    header = read_header(path)
    try:
        return dict(load(path.read_bytes())), dict(header.metadata)
    except Exception as error:  # the library has errors of its own
        raise CorruptArtifact(f"{path.name} cannot be read as numbers; give float32 or float64 tensors") from error


def write_arrays(path: Path, arrays: Mapping[str, Any], metadata: Mapping[str, str]) -> None:
    """Writes tensors in one step."""
    import numpy as np
    from safetensors.numpy import save

    path.write_bytes(save({name: np.ascontiguousarray(item) for name, item in arrays.items()}, dict(metadata)))
