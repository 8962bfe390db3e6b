"""Puts the folder of an embedded model together whose files are in part those of another one. No torch.

The wheel carries such files once. The whole folder lies in the user's cache, so that stock ``from_pretrained``, a run
that reads two matrices by key and a fused copy find an ordinary model folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from erase_plugins.artifacts.atomic import atomic_folder
from erase_plugins.artifacts.user_cache import user_cache
from erase_plugins.errors import ArtifactError, RequestError

#: in the folder of an embedded model: which of its files are made of those of another one
PARTS = "parts.json"
_KIND = "assembled model"


def whole(folder: Path, cache: Path | None = None) -> Path:
    """The folder itself, or what `assembled` makes of it if it has files of another one."""
    return assembled(folder, cache) if (folder / PARTS).is_file() else folder


def assembled(folder: Path, cache: Path | None = None) -> Path:
    """The whole folder, made at the first call.

    Args:
        folder: holds ``parts.json``, file of the whole -> files that it is made of, relative to ``folder`` -> what
            comes before the names of their tensors; those of later files count. All other files are the model's own.
        cache: where whole folders lie; the user's cache if None.

    Raises:
        RequestError: the cache cannot be written.
    """
    parts = json.loads((folder / PARTS).read_text(encoding="utf-8"))
    pieces = {name for names in parts.values() for name in names if len(names) > 1}
    own = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    stamp = hashlib.sha256()
    for path in [*own, *(folder / name for names in parts.values() for name in names)]:
        facts = path.stat()
        stamp.update(f"{path} {facts.st_size} {facts.st_mtime_ns}\n".encode())
    place = (cache or user_cache() / "models") / f"{folder.name}-{stamp.hexdigest()[:16]}"
    if place.is_dir():
        return place
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with atomic_folder(place, kind=_KIND) as work:
            for path in own:
                name = path.relative_to(folder).as_posix()
                if name != PARTS and name not in pieces:
                    _link(path, work / name)
            for name, sources in parts.items():
                if len(sources) == 1:
                    _link(folder / next(iter(sources)), work / name)
                else:
                    _merge({folder / source: prefix for source, prefix in sources.items()}, work / name)
    except (OSError, ArtifactError) as error:
        if place.is_dir():  # another process was faster
            return place
        raise RequestError(
            f"the embedded model '{folder.name}' cannot be put together in the user's cache ({type(error).__name__}); "
            "make that folder writable, or name another with XDG_CACHE_HOME"
        ) from error
    return place


def _link(source: Path, target: Path) -> None:
    """The file a second time; a copy where the file system has no second names."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _merge(sources: dict[Path, str], target: Path) -> None:
    """Tensors of several files in one."""
    from safetensors.numpy import load_file, save_file

    target.parent.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Any] = {}
    for source, prefix in sources.items():
        tensors |= {prefix + name: value for name, value in load_file(source).items()}
    save_file(tensors, target, {"format": "pt"})
