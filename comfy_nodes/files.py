"""Artifacts in the model folders: what is there, and the path of an entry.

Links are followed wherever they lead: whoever can put one into a model folder owns that folder. What a name may not do
is to leave the folder by itself.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from difflib import get_close_matches
from pathlib import Path, PurePosixPath, PureWindowsPath

from erase_plugins.errors import ArtifactError, RequestError

from . import host
from .wording import refusal

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
            every = list(walk(folder))
            inside = {path.parent for path in every if path.name == "erase.json"}
            files = {path for path in every if path.suffix == ".safetensors" and path.parent not in inside}
            shelves = _shelves(every)
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
    found = {shelf.relative_to(folder).as_posix() for folder in folders for shelf in _shelves(walk(folder))}
    return sorted(found) or [NO_COLLECTION]


def walk(folder: Path) -> Iterator[Path]:
    """Files below a folder, through links. Links into a circle and dead ones are left out."""
    real: dict[str, str] = {}
    for place, names, files in os.walk(folder, followlinks=True):
        names.sort()
        real[place] = os.path.realpath(place)
        if any(real.get(str(above)) == real[place] for above in Path(place).parents):
            names.clear()
            continue
        yield from (path for path in (Path(place, name) for name in sorted(files)) if path.is_file())


def _shelves(files: Iterable[Path]) -> list[Path]:
    """Folders that hold a collection; their hundreds of artifacts have a node of their own."""
    return [path.parent for path in files if path.name == "collection.json"]


def shown(name: str) -> str:
    """A name as a message repeats it: on one line, not too long, without what cannot be seen."""
    text = "".join(char if char.isprintable() else "?" for char in name)
    return text if len(text) <= 80 else f"{text[:77]}..."


def below(folder: Path, entry: str) -> Path | None:
    """The place that a name means below a folder; None if the name leaves the folder or cannot be one of a file.

    Args:
        folder: a model folder.
        entry: a relative path.
    """
    for kind in (PurePosixPath, PureWindowsPath):  # a workflow may come from the other kind of computer
        parts = kind(entry)
        if parts.is_absolute() or parts.drive or ".." in parts.parts:
            return None
    return folder / entry


def exists(place: Path) -> bool:
    """Whether something is there; names that no file can have are not."""
    try:
        return place.exists()
    except (OSError, ValueError):  # too long, or with a NUL character
        return False


def find(entry: str, loras: Callable[[], list[str]] | None = None) -> Path:
    """Path of an entry of `listing`.

    Args:
        entry: its name.
        loras: names of ``models/loras``, where whoever asks has looked already.

    Raises:
        ArtifactError: not there (with the nearest name), or outside the model folders.
    """
    if entry == NO_COLLECTION:
        raise ArtifactError("there is no collection yet; pull one from the Hub, or put one into models/erase_plugins")
    if entry == NOTHING:
        raise ArtifactError("there is no artifact yet; put one into models/erase_plugins, or save one from the graph")
    place = placed(entry)
    if place is not None:
        return place
    known = [name for name in (*listing(), *collections()) if name not in (NOTHING, NO_COLLECTION)]
    near = get_close_matches(entry[:200], [*known, *(loras() if loras else ())], n=1)
    hint = f"; the nearest is '{near[0]}'" if near else ""
    where = "models/erase_plugins or models/loras" if loras else "models/erase_plugins"
    raise ArtifactError(
        f"no artifact '{shown(entry)}' in {where}{hint}; take another one, or put it there and refresh the list with R"
    )


def placed(entry: str) -> Path | None:
    """Path of an entry or of a member of a collection, without a look at all that lies there; None if nothing does.

    Raises:
        ArtifactError: outside the model folders, or no safetensors file.
    """
    for folder in host.artifact_folders():
        place = below(folder, entry)
        if place is None:
            raise ArtifactError(f"'{shown(entry)}' lies outside the model folder erase_plugins; move it there")
        if place == folder or not exists(place):
            continue
        if place.is_file() and place.suffix != ".safetensors":
            raise ArtifactError(
                f"'{shown(entry)}' is no .safetensors file; other kinds can run code when opened, so convert it first"
            )
        return place
    return None


def free_name(place: Path, name: str) -> str:
    """The name, with a number behind it if it is taken, as the stock node saves pictures.

    Args:
        place: folder that the name is free in.
        name: of a file or folder.

    Raises:
        ArtifactError: tens of thousands are taken.
    """
    for choice in (name, *(f"{name}_{number:05d}" for number in range(2, 100_000))):
        if not os.path.lexists(place / choice):
            return choice
    raise ArtifactError(f"'{shown(name)}' and a hundred thousand numbers behind it are taken; remove some")


def find_model(entry: str) -> Path:
    """A checkpoint file or diffusers folder in ComfyUI's model folders.

    Args:
        entry: name below models/checkpoints or models/diffusers, or a path inside them.

    Raises:
        RequestError: not there, or outside.
    """
    import folder_paths

    names = [name for name in ("checkpoints", "diffusers") if name in folder_paths.folder_names_and_paths]
    folders = [Path(item) for name in names for item in folder_paths.get_folder_paths(name)]
    inside = [place for place in (below(folder, entry) for folder in folders) if place is not None]
    found = next((place for place in inside if exists(place) and place not in folders), None)
    if found is not None:
        return found
    if folders and not inside:
        raise RequestError(
            f"'{shown(entry)}' lies outside models/checkpoints and models/diffusers; move the model there"
        )
    raise RequestError(
        f"no model '{shown(entry)}' in models/checkpoints or models/diffusers; write the name of a .safetensors file "
        "or of a diffusers folder there, or 'pocket'"
    )


def entry_problem(entry: str) -> str | None:
    """Why an entry cannot be loaded; None if it is there."""
    return refusal(find, entry)


def state(entry: str) -> str:
    """Changes when the files behind an entry change."""
    try:
        return stamp(find(entry))
    except ArtifactError:
        return "missing"


def stamp(place: Path) -> str:
    """Changes when a file, or one of those in a folder, is replaced."""
    files = list(walk(place)) if place.is_dir() else [place]
    return "|".join(f"{file.name}:{file.stat().st_mtime_ns}:{file.stat().st_size}" for file in files)
