"""Links in artifact folders: only those that the Hub's client makes in its own cache are followed.

A cached file is a link into the ``blobs`` folder of its repository, where its name is the hash that the Hub announced.
For files that the Hub keeps by xet that entry is itself a link: into the ``blobs`` folder that all repositories of the
cache share, under the xet hash. The client links what it finds there without looking at the bytes.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import Any, BinaryIO, cast

#: characters of the id of a file that is not in LFS
GIT_ID = 40
_HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
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


def forget(path: Path) -> None:
    """Takes a cached file away, with the blob behind it; a shared blob only if its bytes are not those of its name."""
    blob = cached_entry(path)
    shared = blob.resolve() if blob is not None and blob.is_symlink() else None
    path.unlink(missing_ok=True)
    if blob is not None:
        blob.unlink(missing_ok=True)
    if shared is not None and in_shared_blobs(shared, Path(str(blob)).parent.parent.parent) and _is_damaged(shared):
        shared.unlink(missing_ok=True)


def cached_entry(path: Path) -> Path | None:
    """The entry of a cached file in its repository; None where the cache holds plain copies."""
    if not path.is_symlink():
        return None
    target = Path(os.path.normpath(path.parent.resolve() / os.readlink(path)))
    return target if target.parent.name == "blobs" else None


def announced_hash(file: BinaryIO, like: str) -> str:
    """The hash of a file as the Hub announces it: SHA-256, or the id that git gives it if ``like`` is one."""
    if len(like) != GIT_ID:
        return hashlib.file_digest(cast("Any", file), "sha256").hexdigest()
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    # part by part, unlike the client's own: what a repository holds under this name says nothing about its size
    return hashlib.file_digest(cast("Any", file), lambda: hashlib.sha1(b"blob %d\x00" % size)).hexdigest()


def is_as_announced(path: Path, announced: str | None = None) -> bool:
    """Whether the bytes are those that the Hub announced; true as well where nobody can tell.

    Args:
        path: place in the cache.
        announced: SHA-256 or git id; by default the name of its blob, where the cache uses links.
    """
    blob = cached_entry(path)
    wanted = announced or (blob.name if blob is not None else "")
    if not _HASH.fullmatch(wanted):
        return True
    try:
        with path.open("rb") as file:
            return announced_hash(file, wanted) == wanted
    except OSError:
        return False


def _is_damaged(shared: Path) -> bool:
    """Whether a shared blob holds other bytes than its name says, as far as the xet library can tell."""
    try:
        from hf_xet import hash_files
    except ImportError:  # an older library: the file may be sound, and is fetched again then
        return True
    return shared.is_file() and str(hash_files([str(shared)])[0].hash) != shared.name
