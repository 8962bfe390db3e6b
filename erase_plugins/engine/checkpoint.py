"""Checkpoints of a training run: one safetensors file, replaced atomically; damaged or foreign ones are ignored."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import Tensor

from erase_plugins.artifacts.atomic import atomic_file
from erase_plugins.artifacts.header import read_header
from erase_plugins.errors import CorruptArtifact

FILE = "checkpoint.safetensors"
#: what the run had been asked (`engine.interrupted`)
RECORD = "checkpoint.json"


class Checkpoint:
    """The checkpoint in a work folder."""

    def __init__(self, work: Path, name: str = FILE) -> None:
        self.path = work / name

    def save(self, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any], key: str) -> None:
        """Replaces the checkpoint."""
        from safetensors.torch import save_file

        header = {"step": str(step), "key": key, "state": json.dumps(dict(state), sort_keys=True)}
        flat = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        with atomic_file(self.path) as work:
            save_file(flat, work, metadata=header)

    def load(self, key: str) -> tuple[int, dict[str, Tensor], dict[str, Any]] | None:
        """(step, tensors, state), or None if there is none for this key."""
        from safetensors.torch import load_file

        if not self.path.is_file():
            return None
        try:
            header = read_header(self.path)
            if header.metadata.get("key") != key:
                return None
            return int(header.metadata["step"]), load_file(self.path), json.loads(header.metadata["state"])
        except (CorruptArtifact, KeyError, ValueError):
            return None


def clear(work: Path) -> None:
    """Removes the checkpoints in a work folder, and the folder if nothing else is in it."""
    for path in (*work.glob("*.safetensors"), work / RECORD):
        path.unlink(missing_ok=True)
    with suppress(OSError):
        work.rmdir()
