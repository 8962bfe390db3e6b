"""Reads the tensors of a safetensors file after its header passed every check."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from erase_plugins.artifacts.header import read_header
from erase_plugins.errors import CorruptArtifact


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors and the string metadata.

    Raises:
        CorruptArtifact: the file is not a sound safetensors file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    header = read_header(path)
    try:
        return load_file(path), dict(header.metadata)
    except (SafetensorError, KeyError, ValueError, OSError, RuntimeError, AttributeError) as error:
        raise CorruptArtifact(f"{path.name}: {str(error).splitlines()[0][:200]}") from error
