"""An artifact: an edit with its manifest, in memory, in a folder, or in a single file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from erase_plugins.late import FUNCTIONS
from erase_plugins.plain_text import some

if TYPE_CHECKING:
    from erase_plugins.artifacts.edit import Edit
    from erase_plugins.artifacts.manifest import Manifest

#: layouts that a saved artifact holds unless asked otherwise, or its family has its own: ours, then the stock loaders'
DEFAULT_LAYOUTS = ("patch", "context", "diffusers", "peft", "kohya")


@dataclass(frozen=True, eq=False, repr=False)
class Artifact:
    """An edit and what it says about itself. ``path`` is None while it is in memory only."""

    manifest: Manifest
    edit: Edit
    path: Path | None = None

    def __repr__(self) -> str:
        place = "in memory" if self.path is None else f"in {self.path.name}"
        method = self.manifest.method.get("id", "an unknown method")
        return f"<Artifact {self.name}: {some(self.manifest.erased)} by {method}, for {self.manifest.family}, {place}>"

    @property
    def name(self) -> str:
        """Short name, used for files."""
        return self.manifest.name

    @property
    def family(self) -> Any:
        """The registered family it was made for."""
        return FUNCTIONS["family"](self)

    @cached_property
    def bytes(self) -> int:
        """Size of all files on disk; 0 in memory."""
        return sum(item.bytes for item in self.manifest.files)

    def apply(self, pipe: Any, strength: float = 1.0, **options: Any) -> Any:
        """Applies it to a pipeline; see `erase_plugins.apply`."""
        return FUNCTIONS["apply"](pipe, self, strength=strength, **options)

    def save(
        self, folder: str | Path, layouts: Sequence[str] = (), target: Any = None, force: bool = False
    ) -> Artifact:
        """Writes the artifact folder; complete or not at all.

        Args:
            folder: new folder.
            layouts: layout ids; those of the family if empty.
            target: base model, needed to write a context map as LoRA.
            force: replace a folder of the same kind, if everything in it was written by this program.

        Returns:
            The artifact with its path and file list.
        """
        saved: Artifact = FUNCTIONS["save"](self, folder, layouts, target, force)
        return saved

    def card(self, report: Any = None, **options: Any) -> str:
        """Its model card as Markdown; see `erase_plugins.sharing.card`."""
        return str(FUNCTIONS["card"](self, report, **options))

    def with_manifest(self, **changes: Any) -> Artifact:
        """A copy with changed manifest fields."""
        return replace(self, manifest=replace(self.manifest, **changes))
