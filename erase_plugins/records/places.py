"""The private folder of a head: whether it may be made here, and what killed runs left in it."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from erase_plugins.errors import ArtifactError
from erase_plugins.records.certificate import LEDGER
from erase_plugins.records.state import KEY, STATE


def check_free(place: Path) -> None:
    """Refuses a place where something is, except for what a killed run left of a head that was never finished."""
    known = (KEY, f".{LEDGER}.lock")
    if os.path.lexists(place) and not place.is_dir():
        raise ArtifactError(f"'{place.name}' is a file; choose a new folder")
    if place.is_dir() and any(item.name not in known and not _litter(item) for item in place.iterdir()):
        raise ArtifactError(f"'{place.name}' exists already and is not empty; choose a new folder")


def _litter(path: Path) -> bool:
    return path.suffix == ".tmp" and path.name.startswith(tuple(f".{name}." for name in (STATE, LEDGER, KEY)))


def sweep(folder: Path) -> None:
    """Removes half-written files of killed runs: they may hold rows of records that are deleted later."""
    for path in filter(_litter, list(folder.iterdir())):
        with suppress(OSError):
            path.unlink()
