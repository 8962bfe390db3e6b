"""Links in artifact folders: only those that the Hub's client makes in its own cache are followed."""

from __future__ import annotations

import re
from pathlib import Path

_XET_HASH = re.compile(r"[0-9a-f]{64}")
#: the Hub's client leaves it in the folder of blobs that its repositories share
_SHARED_MARK = ".huggingface-shared-blobs"


def is_inside(path: Path, folder: Path) -> bool:
    """Whether a file really lies in the folder, or is a link that the Hub's cache makes.

    Such a link goes into the blobs of the same repository or into those that the repositories of the same cache share.
    The artifact is the repository itself or one folder of it (a collection).
    """
    try:
        place, home = path.resolve(), folder.resolve()
    except (OSError, RuntimeError):  # a loop of links
        return False
    repositories = [item.parent for item in list(home.parents)[:2] if item.name == "snapshots"]
    in_cache = any(place.parent == item / "blobs" or in_shared_blobs(place, item.parent) for item in repositories)
    return in_cache or place.is_relative_to(home)


def in_shared_blobs(place: Path, cache: Path) -> bool:
    """Whether a file is one that the Hub's client shares between the repositories of a cache."""
    shared = cache / "blobs"
    named = _XET_HASH.fullmatch(place.name) is not None and place.parent == shared / place.name[:2]
    return named and (shared / _SHARED_MARK).is_file()
