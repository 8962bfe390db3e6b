"""``pytorch_lora_weights.safetensors``: what `load_lora_weights` of diffusers picks up by itself."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from erase_plugins.hookspecs import hookimpl
from erase_plugins.types import STAND_IN

if TYPE_CHECKING:
    from erase_plugins.artifacts.edit import Edit
    from erase_plugins.artifacts.family_names import FamilyNames
    from erase_plugins.protocols import Verdict

_METADATA = "lora_adapter_metadata"
#: module name and role of a tensor; the last two alternatives are the names of older diffusers versions
_TENSOR = re.compile(
    r"^(?P<stem>.+?)(?:\.lora_(?P<new>[AB])\.weight|\.lora(?:_linear_layer)?\.(?P<old>down|up)\.weight"
    r"|\.(?P<role>to_[qkv]|to_out)_lora\.(?P<older>down|up)\.weight)$"
)
_PARTS = {"A": "down", "B": "up"}
_COMPONENT = re.compile(r"^(unet|transformer|text_encoder(_\d)?)\.")


class DiffusersLayout:
    """LoRA in diffusers naming; scale baked, one rank."""

    id = "diffusers"
    title = "diffusers LoRA (pytorch_lora_weights.safetensors)"
    readers = ("diffusers",)
    carries = frozenset({"lowrank", STAND_IN})
    stems = "diffusers"

    def accepts(self, edit: Edit, family: FamilyNames) -> Verdict:
        from erase_plugins.artifacts.lora_file import named_verdict

        return named_verdict(edit, family, "diffusers")

    def filename(self, slug: str, family: FamilyNames) -> str:
        return "pytorch_lora_weights.safetensors"

    def write(self, edit: Edit, family: FamilyNames, header: Mapping[str, str], path: Path) -> None:
        from erase_plugins.artifacts.lora_file import padding_header, prepared
        from erase_plugins.artifacts.tensors import write_tensors

        ready, added = prepared(edit)
        tensors: dict[str, Any] = {}
        targets: dict[str, list[str]] = {}
        for component, key, delta in ready.items():
            module = key.removesuffix(".weight")
            stem = family.stem("diffusers", component, module)
            tensors[f"{stem}.lora_A.weight"], tensors[f"{stem}.lora_B.weight"] = delta.tensors().values()
            targets.setdefault(component, []).append(module)
        config: dict[str, Any] = {}
        for component, modules in targets.items():
            # the three fields every peft version knows; newer ones would break older readers
            config |= {
                f"{component}.r": ready.rank,
                f"{component}.lora_alpha": ready.rank,
                f"{component}.target_modules": modules,
            }
        extra = padding_header(family.stem("diffusers", component, module) for component, module in added)
        write_tensors(path, tensors, {**header, **extra, _METADATA: json.dumps(config, sort_keys=True)})

    def sniff(self, keys: Sequence[str], header: Mapping[str, str]) -> bool:
        return any(_COMPONENT.match(key) and _TENSOR.match(key) for key in keys)

    def read(self, path: Path, family: FamilyNames) -> Edit:
        from erase_plugins.artifacts.lora_file import Pairs, adapter_scale, collect, padding_names
        from erase_plugins.artifacts.tensors import read_tensors
        from erase_plugins.errors import ArtifactError

        tensors, header = read_tensors(path)
        config, padding = _metadata(header), padding_names(header)
        pairs, places, scales = Pairs(), {}, {}
        for name, tensor in tensors.items():
            found = _TENSOR.match(name)
            if found is None:
                raise ArtifactError(f"{path.name}: '{name[:80]}' is not a LoRA tensor in diffusers naming")
            stem, role = found["stem"], found["role"]
            if role:  # ...attn1.processor.to_out_lora.down.weight
                stem = f"{stem.removesuffix('.processor')}.{role}" + (".0" if role == "to_out" else "")
            if stem in padding:
                continue
            pairs.put(stem, _PARTS.get(found["new"] or "", found["old"] or found["older"]), tensor)
        for stem, group in pairs.found.items():
            place = family.locate("diffusers", stem)
            if place is None or place[0] not in family.components:
                raise ArtifactError(f"{path.name}: '{stem[:80]}' is not a module of family {family.id}")
            places[stem] = place
            if "down" in group:
                own = {name.partition(".")[2]: item for name, item in config.items() if name.startswith(f"{place[0]}.")}
                scales[stem] = adapter_scale(own, place[1], group["down"].shape[0])
        return collect(family.id, pairs, places, scales)


def _metadata(header: Mapping[str, str]) -> Mapping[str, Any]:
    from erase_plugins.errors import CorruptArtifact

    try:
        data = json.loads(header.get(_METADATA, "{}"))
    except (ValueError, RecursionError) as error:
        raise CorruptArtifact(f"the header entry {_METADATA} is not JSON") from error
    if not isinstance(data, dict):
        raise CorruptArtifact(f"the header entry {_METADATA} is not a JSON object")
    return data


@hookimpl
def erase_layouts() -> list[Any]:
    return [DiffusersLayout()]
