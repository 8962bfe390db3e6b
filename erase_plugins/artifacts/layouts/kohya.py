"""One file for ComfyUI, A1111 and its forks, sd-scripts, LyCORIS and diffusers: Kohya names, one rank, alpha = rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from erase_plugins.hookspecs import hookimpl
from erase_plugins.types import STAND_IN

if TYPE_CHECKING:
    from erase_plugins.artifacts.edit import Edit
    from erase_plugins.artifacts.family_names import FamilyNames
    from erase_plugins.protocols import Verdict

_PARTS = {"lora_down.weight": "down", "lora_up.weight": "up", "alpha": "alpha"}


class KohyaLayout:
    """LoRA in sd-scripts naming. The scale is baked, so alpha equals the rank; LyCORIS reads no module without it.

    All modules have one rank, so one alpha: diffusers mis-scales files in which they differ.
    """

    id = "kohya"
    title = "Kohya LoRA (ComfyUI, diffusers, LyCORIS; names and header as A1111, Forge and sd-scripts use them)"
    readers = ("ComfyUI", "diffusers", "LyCORIS")
    carries = frozenset({"lowrank", STAND_IN})
    stems = "kohya"

    def accepts(self, edit: Edit, family: FamilyNames) -> Verdict:
        from erase_plugins.artifacts.lora_file import named_verdict

        return named_verdict(edit, family, "kohya")

    def filename(self, slug: str, family: FamilyNames) -> str:
        return f"{slug}_{family.id}_kohya.safetensors"

    def write(self, edit: Edit, family: FamilyNames, header: Mapping[str, str], path: Path) -> None:
        import torch

        from erase_plugins.artifacts.kohya_header import kohya_header
        from erase_plugins.artifacts.lora_file import padding_header, prepared
        from erase_plugins.artifacts.tensors import write_tensors

        ready, added = prepared(edit)
        tensors = {}
        for component, key, delta in ready.items():
            stem = family.stem("kohya", component, key.removesuffix(".weight"))
            tensors[f"{stem}.lora_down.weight"], tensors[f"{stem}.lora_up.weight"] = delta.tensors().values()
            tensors[f"{stem}.alpha"] = torch.tensor(float(ready.rank))
        extra = padding_header(family.stem("kohya", component, module) for component, module in added)
        write_tensors(path, tensors, {**header, **kohya_header(tensors, ready, family, header), **extra})

    def sniff(self, keys: Sequence[str], header: Mapping[str, str]) -> bool:
        stems = [key for key in keys if key.startswith("lora_")]
        patch = any(key.endswith((".diff", ".diff_b")) for key in stems)
        return not patch and any(key.endswith(".lora_down.weight") for key in stems)

    def read(self, path: Path, family: FamilyNames) -> Edit:
        from erase_plugins.artifacts.lora_file import Pairs, collect, padding_names
        from erase_plugins.artifacts.tensors import read_tensors
        from erase_plugins.errors import ArtifactError

        tensors, header = read_tensors(path)
        pairs, places, padding = Pairs(), {}, padding_names(header)
        for name, tensor in tensors.items():
            stem, _, part = name.partition(".")
            if part not in _PARTS:
                raise ArtifactError(
                    f"{path.name}: '{name[:80]}' is not a plain LoRA tensor (DoRA, LoKr and the like are not read)"
                )
            if stem not in padding:
                pairs.put(stem, _PARTS[part], tensor)
        for stem in pairs.found:
            place = family.locate("kohya", stem)
            if place is None:
                raise ArtifactError(f"{path.name}: '{stem[:80]}' is not a module of family {family.id}")
            places[stem] = place
        return collect(family.id, pairs, places)


@hookimpl
def erase_layouts() -> list[Any]:
    return [KohyaLayout()]
