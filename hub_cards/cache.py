"""The client's file cache: are the bytes those that were announced, and what is there without a connection.

A cached file is a link into the ``blobs`` folder of its repository, where its name is the hash that the Hub announced.
For files that the Hub keeps by xet that entry is itself a link: into the ``blobs`` folder that all repositories of the
cache share, under the xet hash. The client links what it finds there without looking at the bytes.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from erase_plugins.artifacts.links import in_shared_blobs
from hub_cards.bundle import PushFile

_HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


def is_as_announced(path: Path, announced: str | None = None) -> bool:
    """Whether the bytes are those that the Hub announced; true as well where nobody can tell.

    Args:
        path: place in the cache.
        announced: SHA-256 or git id; by default the name of its blob, where the cache uses links.
    """
    blob = _blob(path)
    wanted = announced or (blob.name if blob is not None else "")
    if not _HASH.fullmatch(wanted):
        return True
    try:
        return PushFile(path.name, path).matches(wanted)
    except OSError:
        return False


def forget(path: Path) -> None:
    """Takes a cached file away, with the blob behind it; a shared blob only if its bytes are not those of its name."""
    blob = _blob(path)
    shared = blob.resolve() if blob is not None and blob.is_symlink() else None
    path.unlink(missing_ok=True)
    if blob is not None:
        blob.unlink(missing_ok=True)
    if shared is not None and in_shared_blobs(shared, Path(str(blob)).parent.parent.parent) and _is_damaged(shared):
        shared.unlink(missing_ok=True)


def _blob(path: Path) -> Path | None:
    """The entry of a cached file in its repository; None where the cache holds plain copies."""
    if not path.is_symlink():
        return None
    target = Path(os.path.normpath(path.parent.resolve() / os.readlink(path)))
    return target if target.parent.name == "blobs" else None


def _is_damaged(shared: Path) -> bool:
    """Whether a shared blob holds other bytes than its name says, as far as the xet library can tell."""
    try:
        from hf_xet import hash_files
    except ImportError:  # an older library: the file may be sound, and is fetched again then
        return True
    return shared.is_file() and str(hash_files([str(shared)])[0].hash) != shared.name
