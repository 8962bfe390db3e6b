"""Artifacts that are named instead of being on disk: "scheme:rest", which a plugin resolves to a path."""

from __future__ import annotations

import re
from pathlib import Path

#: at least two letters, so that a Windows drive is none
_REFERENCE = re.compile(r"^[a-z][a-z0-9-]+:[^\\]+$")


def is_reference(path: object) -> bool:
    """Whether this is a reference; an existing file of that name is not."""
    return isinstance(path, str) and bool(_REFERENCE.match(path)) and not Path(path).exists()
