"""Our own file: every delta kind, the closed-form statistics and the manifest, nothing lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from erase_plugins.hookspecs import hookimpl
from erase_plugins.protocols import Verdict

#: the one entry that makes a file ours; the description of its tensors
HEADER_KEY = "erase_plugins.edit"

if TYPE_CHECKING:
    from erase_plugins.artifacts.edit import Edit
    from erase_plugins.artifacts.family_names import FamilyNames


class PatchLayout:
    """The lossless layout; read by erase-plugins only."""

    id = "patch"
    title = "erase-plugins patch (every kind of change, with statistics)"
    readers = ("erase-plugins",)

    def accepts(self, edit: Edit, family: FamilyNames) -> Verdict:
        return Verdict("yes")

    def filename(self, slug: str, family: FamilyNames) -> str:
        return "edit.safetensors"

    def write(self, edit: Edit, family: FamilyNames, header: Mapping[str, str], path: Path) -> None:
        from erase_plugins.artifacts.serialize import edit_to_tensors
        from erase_plugins.artifacts.tensors import write_tensors

        tensors, description = edit_to_tensors(edit)
        write_tensors(path, tensors, {**header, HEADER_KEY: description})

    def sniff(self, keys: Sequence[str], header: Mapping[str, str]) -> bool:
        return HEADER_KEY in header

    def read(self, path: Path, family: FamilyNames) -> Edit:
        from erase_plugins.artifacts.serialize import edit_from_tensors
        from erase_plugins.artifacts.tensors import read_tensors

        tensors, header = read_tensors(path)
        return edit_from_tensors(tensors, header.get(HEADER_KEY, ""))


@hookimpl
def erase_layouts() -> list[Any]:
    return [PatchLayout()]
