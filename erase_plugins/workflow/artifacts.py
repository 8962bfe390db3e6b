"""Artifacts for users: loaded from wherever they are, saved in the layouts that are registered, inspected."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from erase_plugins.artifacts.artifact import Artifact
from erase_plugins.artifacts.atomic import atomic_folder
from erase_plugins.artifacts.manifest import FILENAME
from erase_plugins.artifacts.reference import is_reference
from erase_plugins.errors import ArtifactError
from erase_plugins.given import checked
from erase_plugins.hints import LIST_PLUGINS, Command, Hint
from erase_plugins.manager import get_manager
from erase_plugins.records.release import PROOF, is_proven


@checked
def load_artifact(path: str | Path | Artifact, family: str | None = None) -> Artifact:
    """A verified artifact.

    Args:
        path: artifact folder, a single file in any registered layout, a reference that a plugin resolves
            ("hub:name/repository@revision"), or an `Artifact` (returned as it is).
        family: family of a single file that does not say it.

    Raises:
        ArtifactError: not found; `CorruptArtifact` if verification fails.
    """
    if isinstance(path, Artifact):
        return path
    from erase_plugins.artifacts.store import read_file, read_folder

    place = locate(path)
    if place.is_dir():
        return read_folder(place, get_manager().known())
    if place.is_file():
        return read_file(place, family, get_manager().known())
    raise ArtifactError(f"no artifact at '{place.name}'; give an artifact folder or a .safetensors file")


def locate(path: str | Path) -> Path:
    """The place on disk of a path or reference.

    Raises:
        ArtifactError: no plugin resolves the reference.
    """
    if not isinstance(path, str) or not is_reference(path):
        return Path(path)
    place = get_manager().resolve_artifact(path)
    if place is None:
        scheme = path.split(":")[0]
        raise ArtifactError(
            f"no plugin knows where '{scheme}:' artifacts are; ", LIST_PLUGINS, " shows what is installed"
        )
    return place


def save_artifact(
    artifact: Artifact,
    folder: str | Path,
    layouts: Sequence[str] = (),
    target: Any = None,
    force: bool = False,
    extras: Callable[[Path, Path], object] | None = None,
) -> Artifact:
    """Writes an artifact folder, complete or not at all, and tells the plugins; see `Artifact.save`.

    Args:
        artifact, folder, layouts, target, force: as for `Artifact.save`.
        extras: called with the folder in the making and the last layout's file, to write files beside it.

    Raises:
        ArtifactError: the folder exists, or no layout can carry the edit.
    """
    from erase_plugins.artifacts.store import write_folder

    manager = get_manager()
    saved = write_folder(artifact, Path(folder), tuple(layouts), target, force, manager.known(), extras)
    manager.artifact_saved(saved)
    return saved


def copy_artifact(artifact: Artifact, folder: Path, force: bool = False) -> None:
    """Copies a saved artifact: its manifest and those of its files that are there.

    Raises:
        ArtifactError: the folder exists and ``force`` is not set.
    """
    source = Path(str(artifact.path))
    with atomic_folder(folder, force) as work:
        for name in (FILENAME, *(item.name for item in artifact.manifest.files)):
            if (source / name).is_file():
                (work / name).parent.mkdir(exist_ok=True)
                shutil.copyfile(source / name, work / name)


def keep_copy(artifact: Artifact, folder: Path, force: bool = False) -> Artifact:
    """A copy of a saved artifact, also of a single file, in a new folder, where plugins put what they put beside one.

    Raises:
        ArtifactError: the folder exists and ``force`` is not set.
    """
    place = Path(str(artifact.path))
    if place.is_dir():
        copy_artifact(artifact, folder, force)
        found = replace(artifact, path=folder)
        get_manager().artifact_saved(found)
        return found
    with atomic_folder(folder, force) as work:
        shutil.copyfile(place, work / place.name)
    return replace(artifact, path=folder / place.name)


def whole(artifact: Artifact) -> dict[str, str | None]:
    """Manifest and listed files of a saved artifact, with head, ledger and certificate where its deletions are proven;
    nothing else that lies in its folder.

    Returns:
        Name -> the SHA-256 that the manifest states.

    Raises:
        ArtifactError: not saved as a folder, or a listed file is not there.
    """
    place = artifact.path
    if place is None or not place.is_dir():
        raise ArtifactError(
            f"'{artifact.name}' is not an artifact folder; save it first ",
            Command("convert", "(artifact.save, or 'erase-plugins convert')"),
        )
    proof = [name for name in PROOF if is_proven(place) and (place / name).is_file()]  # a lack of one is refused later
    known = {**dict.fromkeys((FILENAME, *proof)), **{item.name: item.sha256 for item in artifact.manifest.files}}
    absent = next((name for name in known if not (place / name).is_file()), None)
    if absent is not None:
        raise ArtifactError(
            f"'{place.name}' lacks {absent}, which its manifest lists; pull it with ", Hint("all-files"), " first"
        )
    return known


def family_of(artifact: Artifact) -> Any:
    """The registered family that an artifact was made for."""
    return get_manager().family(artifact.edit.family)


def inspect_file(path: str | Path) -> dict[str, Any]:
    """What a safetensors file is, for which base, and how it can be converted; see `artifacts.foreign.inspect_file`."""
    from erase_plugins.artifacts import foreign

    return foreign.inspect_file(path, list(get_manager().known().families.values()))
