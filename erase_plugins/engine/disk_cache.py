"""Tensors kept between sessions in the user's cache folder, by a key that names everything they were computed from.

``ERASE_PLUGINS_CACHE`` names another folder; ``ERASE_PLUGINS_CACHE=0`` switches it off. Whatever goes wrong with the
disk costs time only: an unreadable entry is as good as none, an unwritable folder keeps nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from erase_plugins.artifacts.user_cache import user_cache

VARIABLE = "ERASE_PLUGINS_CACHE"
#: the entries used longest ago go when all together are larger
MOST_BYTES = 1 << 30
#: a file that a killed process left half written, in seconds
_ABANDONED = 3600.0
_DIGEST = "digest"


def folder() -> Path | None:
    """Where entries lie; None if switched off."""
    asked = os.getenv(VARIABLE, "").strip()
    if asked == "0":
        return None
    if asked:
        return Path(asked).expanduser()
    return user_cache() / "tensors"


def read(key: str, like: Mapping[str, tuple[tuple[int, ...], torch.dtype]] | None = None) -> dict[str, Tensor] | None:
    """The tensors under a key; None if there are none, or the file is not whole.

    Args:
        key: file name without ending.
        like: name -> shape and type of every tensor that must be there; None takes what is there.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    place = folder()
    if place is None:
        return None
    file = place / f"{key}.safetensors"
    try:
        found = load(file.read_bytes())
        digest = found.pop(_DIGEST)
        os.utime(file)
    except (OSError, ValueError, KeyError, SafetensorError):
        return None
    facts = {name: (tuple(value.shape), value.dtype) for name, value in found.items()}
    whole = like is None or facts == dict(like)
    return found if whole and torch.equal(digest, _digest(found)) else None


def write(key: str, tensors: Mapping[str, Tensor]) -> None:
    """Keeps tensors under a key and forgets the entries used longest ago; other processes see all of it or nothing.

    Values that are not finite are not kept.
    """
    from safetensors.torch import save

    place = folder()
    if place is None or not all(bool(value.isfinite().all()) for value in tensors.values()):
        return
    kept = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    with contextlib.suppress(OSError):
        place.mkdir(parents=True, exist_ok=True)
        number, name = tempfile.mkstemp(dir=place, suffix=".part")
        try:
            with os.fdopen(number, "wb") as stream:
                stream.write(save({**kept, _DIGEST: _digest(kept)}))
            os.replace(name, place / f"{key}.safetensors")
        finally:
            Path(name).unlink(missing_ok=True)
        _tidy(place)


def _digest(tensors: Mapping[str, Tensor]) -> Tensor:
    found = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        found.update(name.encode() + tensors[name].numpy().tobytes())
    return torch.frombuffer(bytearray(found.digest()), dtype=torch.uint8)


def _tidy(place: Path) -> None:
    for file in place.glob("*.part"):
        if time.time() - file.stat().st_mtime > _ABANDONED:
            file.unlink(missing_ok=True)
    facts = [(file.stat(), file) for file in place.glob("*.safetensors")]
    total = 0
    for stat, file in sorted(facts, key=lambda fact: fact[0].st_mtime, reverse=True):
        total += stat.st_size
        if total > MOST_BYTES:
            file.unlink(missing_ok=True)
