"""Kohya-style full patches (``.diff``, ``.diff_b``): dense and bias changes for ComfyUI, not for diffusers loaders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from erase_plugins.artifacts.manifest import LAYOUT_KEY
from erase_plugins.errors import Unsupported
from erase_plugins.hints import sentence_of
from erase_plugins.hookspecs import hookimpl
from erase_plugins.protocols import Verdict

if TYPE_CHECKING:
    from erase_plugins.artifacts.edit import Delta, Edit
    from erase_plugins.artifacts.family_names import FamilyNames


class DiffLayout:
    """Whole weight and bias changes; low-rank ones stay pairs of factors."""

    id = "diff"
    title = "Kohya-style patch (.diff, .diff_b) for ComfyUI"
    readers = ("ComfyUI",)
    carries = frozenset({"lowrank", "dense"})
    stems = "kohya"

    def accepts(self, edit: Edit, family: FamilyNames) -> Verdict:
        other = sorted(edit.kinds - self.carries)
        if other:
            return Verdict("no", f"a .diff file carries weight and bias changes, not {', '.join(other)}")
        odd = [key for _, key, _ in edit.items() if "embedding." in key and not key.startswith("time_")]
        if odd:
            return Verdict("no", f"ComfyUI does not patch embedding tables ({odd[0]})")
        try:
            for component, key, _ in edit.items():
                family.stem("kohya", component, key.rpartition(".")[0])
        except Unsupported as error:
            return Verdict("no", sentence_of(error))
        return Verdict("yes") if len(edit) else Verdict("no", "the edit is empty")

    def filename(self, slug: str, family: FamilyNames) -> str:
        return f"{slug}_{family.id}_patch.safetensors"

    def write(self, edit: Edit, family: FamilyNames, header: Mapping[str, str], path: Path) -> None:
        from erase_plugins.artifacts.kohya_header import kohya_header
        from erase_plugins.artifacts.lora_file import fresh, stored_dtype
        from erase_plugins.artifacts.tensors import write_tensors

        tensors, dtype = {}, stored_dtype(edit)
        for component, key, delta in edit.items():
            stem = family.stem("kohya", component, key.rpartition(".")[0])
            if delta.kind == "lowrank":
                down, up = delta.tensors().values()
                tensors[f"{stem}.lora_down.weight"], tensors[f"{stem}.lora_up.weight"] = (
                    fresh(down, dtype),
                    fresh(up, dtype),
                )
            else:
                name = "diff_b" if key.endswith(".bias") else "diff"
                tensors[f"{stem}.{name}"] = fresh(next(iter(delta.tensors().values())), dtype)
        write_tensors(path, tensors, {**header, **kohya_header(tensors, edit, family, header)})

    def sniff(self, keys: Sequence[str], header: Mapping[str, str]) -> bool:
        if header.get(LAYOUT_KEY) == self.id:  # one of low-rank changes alone has no such name in it
            return True
        return any(key.startswith("lora_") and key.endswith((".diff", ".diff_b")) for key in keys)

    def read(self, path: Path, family: FamilyNames) -> Edit:
        from erase_plugins.artifacts.edit import Dense, Edit
        from erase_plugins.artifacts.layouts.kohya import _PARTS
        from erase_plugins.artifacts.lora_file import Pairs
        from erase_plugins.artifacts.serialize import check_delta
        from erase_plugins.artifacts.tensors import read_tensors
        from erase_plugins.errors import ArtifactError, CorruptArtifact

        tensors, _ = read_tensors(path)
        pairs = Pairs()
        deltas: dict[str, dict[str, Delta]] = {}

        def place(stem: str) -> tuple[str, str]:
            found = family.locate("kohya", stem)
            if found is None:
                raise ArtifactError(f"{path.name}: '{stem[:80]}' is not a module of family {family.id}")
            return found

        def keep(component: str, key: str, delta: Delta) -> None:
            if key in deltas.setdefault(component, {}):
                raise CorruptArtifact(f"{component} {key} is changed twice")
            check_delta(f"{component} {key}", delta)
            deltas[component][key] = delta

        for name, tensor in tensors.items():
            stem, _, part = name.partition(".")
            if part in _PARTS:
                pairs.put(stem, _PARTS[part], tensor)
                continue
            component, module = place(stem)
            if part == "diff_b" or (part == "diff" and tensor.ndim == 1):
                keep(component, f"{module}.{'bias' if part == 'diff_b' else 'weight'}", Dense(tensor.float()))
            elif part == "diff" and tensor.ndim in (2, 4):
                keep(component, f"{module}.weight", Dense(tensor.float()))
            else:
                raise ArtifactError(f"{path.name}: '{name[:80]}' with shape {tuple(tensor.shape)} is not a known patch")
        for stem in pairs.found:
            component, module = place(stem)
            keep(component, f"{module}.weight", pairs.lowrank(stem))
        return Edit(family.id, deltas)


@hookimpl
def erase_layouts() -> list[Any]:
    return [DiffLayout()]
