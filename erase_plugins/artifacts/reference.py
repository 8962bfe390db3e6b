"""Artifacts that are named instead of being on disk: "scheme:rest", resolved to a path by a plugin."""

from __future__ import annotations

import re
from pathlib import Path

from erase_plugins.errors import ArtifactError

#: at least two letters, so that a Windows drive is none
_REFERENCE = re.compile(r"^[a-z][a-z0-9-]+:[^\\]+$")


def is_reference(path: object) -> bool:
    """Whether this is a reference; an existing file of that name is not."""
    return isinstance(path, str) and bool(_REFERENCE.match(path)) and not Path(path).exists()


def locate(path: str | Path) -> Path:
    """The place on disk of a path or reference.

    Raises:
        ArtifactError: no plugin resolves the reference.
    """
    if not isinstance(path, str) or not is_reference(path):
        return Path(path)
    from erase_plugins.manager import get_manager

    place: Path | None = get_manager().resolve_artifact(path)
    if place is None:
        scheme = path.split(":")[0]
        raise ArtifactError(
            f"no plugin knows where '{scheme}:' artifacts are; 'erase-plugins list plugins' shows what is installed"
        )
    return place
