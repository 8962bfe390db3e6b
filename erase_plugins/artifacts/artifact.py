"""An artifact: an edit with its manifest, in memory, in a folder, or in a single file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from erase_plugins.errors import ArtifactError

if TYPE_CHECKING:
    from erase_plugins.artifacts.edit import Edit
    from erase_plugins.artifacts.manifest import Manifest

#: layouts that a saved artifact holds unless asked otherwise: ours, then what stock loaders read
DEFAULT_LAYOUTS = ("patch", "context", "diffusers", "kohya")


@dataclass(frozen=True, eq=False)
class Artifact:
    """An edit and what it says about itself. ``path`` is None while it is in memory only."""

    manifest: Manifest
    edit: Edit
    path: Path | None = None

    @property
    def name(self) -> str:
        """Short name, used for files."""
        return self.manifest.name

    @property
    def family(self) -> Any:
        """The registered family it was made for."""
        from erase_plugins.manager import get_manager

        return get_manager().family(self.edit.family)

    @cached_property
    def bytes(self) -> int:
        """Size of all files on disk; 0 in memory."""
        return sum(item.bytes for item in self.manifest.files)

    def apply(self, pipe: Any, strength: float = 1.0, **options: Any) -> Any:
        """Applies it to a pipeline; see `erase_plugins.apply`."""
        from erase_plugins.runtime.apply import apply

        return apply(pipe, self, strength=strength, **options)

    def save(
        self, folder: str | Path, layouts: Sequence[str] = DEFAULT_LAYOUTS, target: Any = None, force: bool = False
    ) -> Artifact:
        """Writes the artifact folder; complete or not at all.

        Args:
            folder: new folder.
            layouts: layout ids.
            target: base model, needed to write a context map as LoRA.
            force: replace a folder of the same kind, if everything in it was written by this program.

        Returns:
            The artifact with its path and file list.
        """
        from erase_plugins.artifacts.store import save

        return save(self, Path(folder), tuple(layouts), target, force)

    def card(self, report: Any = None, **options: Any) -> str:
        """Its model card as Markdown; see `erase_plugins.sharing.card`."""
        from erase_plugins.sharing import card

        return card(self, report, **options)

    def with_manifest(self, **changes: Any) -> Artifact:
        """A copy with changed manifest fields."""
        return replace(self, manifest=replace(self.manifest, **changes))


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
    from erase_plugins.artifacts.reference import locate
    from erase_plugins.artifacts.store import read_file, read_folder

    place = locate(path)
    if place.is_dir():
        return read_folder(place)
    if place.is_file():
        return read_file(place, family)
    raise ArtifactError(f"no artifact at '{place.name}'; give an artifact folder or a .safetensors file")
