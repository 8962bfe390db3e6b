"""The portable form of a closed-form edit: one small map of text embedding rows, for models with that text encoder.

A few kilobytes per direction, independent of the number of layers; no weights of any denoiser, no statistics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from erase_plugins.hookspecs import hookimpl
from erase_plugins.protocols import Verdict

if TYPE_CHECKING:
    from erase_plugins.artifacts.edit import Edit
    from erase_plugins.artifacts.family_names import FamilyNames

_PREFIX = "context_map"


class ContextLayout:
    """Tensors ``context_map.<component>.A`` (rank, dim) and ``.B`` (dim, rank): c becomes c + B A c.

    A map of many directions is ``context_map.<component>.K`` (dim, dim) in half precision, for B A.
    """

    id = "context"
    title = "portable context map (no layers, no statistics)"
    readers = ("erase-plugins",)
    carries = frozenset({"contextmap"})

    def accepts(self, edit: Edit, family: FamilyNames) -> Verdict:
        others = edit.kinds - self.carries
        if others or not edit.kinds:
            return Verdict("no", f"a context map file cannot carry {', '.join(sorted(others)) or 'nothing'}")
        return Verdict("yes")

    def filename(self, slug: str, family: FamilyNames) -> str:
        return "context_map.safetensors"

    def write(self, edit: Edit, family: FamilyNames, header: Mapping[str, str], path: Path) -> None:
        from erase_plugins.artifacts.tensors import write_tensors

        tensors = {
            f"{_PREFIX}.{component}.{name}": tensor.detach().cpu().contiguous().clone()
            for component, _, delta in edit.items()
            for name, tensor in _stored(delta).items()
        }
        write_tensors(path, tensors, dict(header))

    def sniff(self, keys: Sequence[str], header: Mapping[str, str]) -> bool:
        return bool(keys) and all(key.startswith(f"{_PREFIX}.") for key in keys)

    def read(self, path: Path, family: FamilyNames) -> Edit:
        from erase_plugins.artifacts.edit import CONTEXT, ContextMap, Delta, Edit
        from erase_plugins.artifacts.serialize import check_delta
        from erase_plugins.artifacts.tensors import read_tensors
        from erase_plugins.errors import CorruptArtifact

        tensors, _ = read_tensors(path)
        deltas: dict[str, dict[str, Delta]] = {}
        count = 0
        for component in sorted({key.split(".")[1] for key in tensors if key.count(".") == 2}):
            whole = tensors.get(f"{_PREFIX}.{component}.K")
            if whole is not None and whole.is_floating_point() and whole.ndim == 2:
                deltas[component] = {CONTEXT: ContextMap.of_whole(whole)}
                check_delta(component, deltas[component][CONTEXT])
                count += 1
                continue
            try:
                delta = ContextMap(*(tensors[f"{_PREFIX}.{component}.{name}"] for name in ("A", "B")))
            except KeyError as error:
                raise CorruptArtifact(f"{path.name}: the context map of {component} lacks {error}") from error
            check_delta(component, delta)
            deltas[component] = {CONTEXT: delta}
            count += 2
        if count != len(tensors):
            raise CorruptArtifact(f"{path.name}: unknown tensors beside the context map")
        return Edit(family.id, deltas)


def _stored(delta: Any) -> dict[str, Any]:
    """Tensors of a map as this layout has them."""
    import torch

    whole = delta.whole() if delta.is_wide else None
    return delta.tensors() if whole is None else {"K": whole.to(torch.float16)}


@hookimpl
def erase_layouts() -> list[Any]:
    return [ContextLayout()]
