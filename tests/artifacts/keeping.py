"""A whole tree as data: names, kinds, links, contents, sizes and times of change."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path


def tree(folder: Path) -> dict[str, tuple[object, ...]]:
    """Everything below a folder, so that two of them are equal only if nothing was touched in between."""
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted(folder.rglob("*")):
        facts = path.lstat()
        if path.is_symlink():
            content: object = os.readlink(path)
        else:
            content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        changed = None if path.is_dir() and not path.is_symlink() else facts.st_mtime_ns
        found[path.relative_to(folder).as_posix()] = (content, facts.st_mode, changed)
    return found
