"""Artifacts in the model folders: what is there, and the path of an entry."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

from erase_plugins.errors import ArtifactError

from . import host

NOTHING = "(no artifact in models/erase_plugins yet)"
NO_COLLECTION = "(no collection in models/erase_plugins yet)"


def listing() -> list[str]:
    """Artifact folders and safetensors files, by their path below the model folder; one explaining entry if none."""
    try:
        folders = host.artifact_folders()
    except Exception:  # asked for outside ComfyUI, or the folders cannot be read: the widget must not fail
        return [NOTHING]
    found: set[str] = set()
    for folder in folders:
        if folder.is_dir():
            inside = {path.parent for path in folder.rglob("erase.json")}
            files = {path for path in folder.rglob("*.safetensors") if path.parent not in inside}
            shelves = _shelves(folder)
            found |= {
                path.relative_to(folder).as_posix()
                for path in inside | files
                if path != folder and not any(path.is_relative_to(shelf) for shelf in shelves)
            }
    return sorted(found) or [NOTHING]


def collections() -> list[str]:
    """Collection folders, by their path below the model folder; one explaining entry if none."""
    try:
        folders = [folder for folder in host.artifact_folders() if folder.is_dir()]
    except Exception:  # as in `listing`
        return [NO_COLLECTION]
    found = {shelf.relative_to(folder).as_posix() for folder in folders for shelf in _shelves(folder)}
    return sorted(found) or [NO_COLLECTION]


def _shelves(folder: Path) -> list[Path]:
    """Folders below ``folder`` that hold a collection; their hundreds of artifacts have a node of their own."""
    return [path.parent for path in folder.rglob("collection.json")]


def find(entry: str) -> Path:
    """Path of an entry of `listing`.

    Raises:
        ArtifactError: not there (with the nearest name), or outside the model folders.
    """
    if entry == NO_COLLECTION:
        raise ArtifactError("there is no collection yet; pull one from the Hub, or put one into models/erase_plugins")
    if entry == NOTHING:
        raise ArtifactError("there is no artifact yet; put one into models/erase_plugins, or save one from the graph")
    for folder in host.artifact_folders():
        place = (folder / entry).resolve()
        if not place.is_relative_to(folder.resolve()):
            raise ArtifactError(f"'{entry[:80]}' lies outside the model folder erase_plugins; move it there")
        if place.is_file() and place.suffix != ".safetensors":
            raise ArtifactError(
                f"'{entry[:80]}' is no .safetensors file; other kinds can run code when opened, so convert it first"
            )
        if place.exists():
            return place
    known = [name for name in (*listing(), *collections()) if name not in (NOTHING, NO_COLLECTION)]
    near = get_close_matches(entry, known, n=1)
    hint = f"; the nearest is '{near[0]}'" if near else ""
    raise ArtifactError(f"no artifact '{entry[:80]}' in models/erase_plugins{hint}; refresh the list with R")


def entry_problem(entry: str) -> str | None:
    """Why an entry cannot be loaded; None if it is there."""
    try:
        find(entry)
    except ArtifactError as error:
        return str(error)
    return None


def state(entry: str) -> str:
    """Changes when the files behind an entry change."""
    try:
        place = find(entry)
    except ArtifactError:
        return "missing"
    files = sorted(place.rglob("*")) if place.is_dir() else [place]
    return "|".join(f"{file.name}:{file.stat().st_mtime_ns}:{file.stat().st_size}" for file in files)
