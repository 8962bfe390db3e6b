"""What `PeftModel.from_pretrained` reads: adapter_model.safetensors with adapter_config.json, a pair per component.

The pair of a denoiser lies where the artifact lies, so that its folder or repository alone names it; diffusers takes
the file of its own name from the same place and does not look at this pair. Other components have a folder each.
"""

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

MODEL, CONFIG = "adapter_model.safetensors", "adapter_config.json"
_PREFIX = "base_model.model."
_TENSOR = re.compile(r"^base_model\.model\.(?P<path>.+)\.lora_(?P<part>[AB])(\.[^.]+)?\.weight$")
_COMPONENT = "erase_plugins.component"
_PARTS = {"A": "down", "B": "up"}
#: entries of the configuration with which a layer does something else than add the product of both factors
_OTHER_FORMS = (
    "use_dora", "use_qalora", "use_bdlora", "alora_invocation_tokens", "arrow_config", "kasa_config",
    "monteclora_config", "layer_replication",
)  # fmt: skip
#: starts of which what is trained is a part of the base weight, taken out of it
_CHANGED_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


class PeftLayout:
    """Native peft. Files of the text encoder carry the module names of transformers 5 (flat CLIPTextModel)."""

    id = "peft"
    title = "peft adapter, one per component (PeftModel.from_pretrained)"
    readers = ("peft",)
    carries = frozenset({"lowrank", STAND_IN})

    def accepts(self, edit: Edit, family: FamilyNames) -> Verdict:
        from erase_plugins.artifacts.lora_file import lora_verdict

        return lora_verdict(edit)

    def filename(self, slug: str, family: FamilyNames) -> str:
        return "peft"

    def write(self, edit: Edit, family: FamilyNames, header: Mapping[str, str], path: Path) -> None:
        from erase_plugins.artifacts.edit import Edit
        from erase_plugins.artifacts.lora_file import prepared
        from erase_plugins.artifacts.standin import stand_in
        from erase_plugins.artifacts.tensors import write_tensors

        edit = stand_in(edit)
        for component in sorted(edit.deltas):
            ready, _ = prepared(Edit(edit.family, {component: edit.deltas[component]}))
            tensors, modules = {}, []
            for _, key, delta in ready.items():
                module = key.removesuffix(".weight")
                if f"{module}.weight" not in edit.deltas[component]:
                    continue  # padding is for other loaders
                modules.append(module)
                delta = _as_linear(delta, module, family)
                for name, tensor in delta.tensors().items():
                    tensors[f"{_PREFIX}{_native(component, module, family)}.lora_{name}.weight"] = tensor
            folder = _folder(path, component, family)
            folder.mkdir(parents=True, exist_ok=True)
            write_tensors(folder / MODEL, tensors, {**header, _COMPONENT: component})
            task = "CAUSAL_LM" if family.roles.get("language") == component else None
            text = json.dumps(_config(ready.rank, modules, task, header, family), indent=2, sort_keys=True)
            (folder / CONFIG).write_text(text + "\n", encoding="utf-8")

    def sniff(self, keys: Sequence[str], header: Mapping[str, str]) -> bool:
        return any(_TENSOR.match(key) for key in keys)

    def read(self, path: Path, family: FamilyNames) -> Edit:
        """Reads one adapter file or folder, or, for a path that `write` was given, all its components."""
        from erase_plugins.artifacts.edit import Edit
        from erase_plugins.errors import ArtifactError, CorruptArtifact

        if path.is_file():
            return _read_one(path, family)
        every = [path.parent, *sorted(path.parent.glob(f"{path.name}_*"))]
        folders = [item for item in ([path] if path.is_dir() else every) if (item / MODEL).is_file()]
        deltas: dict[str, Any] = {}
        for folder in folders:
            for component, group in _read_one(folder / MODEL, family).deltas.items():
                if component in deltas:
                    raise CorruptArtifact(f"two adapters change {component}")
                deltas[component] = group
        if not deltas:
            raise ArtifactError(f"'{path.name}' holds no {MODEL}")
        return Edit(family.id, deltas)


def _folder(path: Path, component: str, family: FamilyNames) -> Path:
    """Where the pair of a component lies, for the path that `PeftLayout.write` is given."""
    main = component == family.roles.get("denoiser")
    return path.parent if main else path.with_name(f"{path.name}_{component}")


def _native(component: str, module: str, family: FamilyNames) -> str:
    """Module path in the live module: only encoders with projection still have a ``text_model`` child."""
    nested = component in family.projected and module != "text_projection"
    return f"text_model.{module}" if nested else module


def _flipped(module: str, family: FamilyNames) -> bool:
    """Whether the model stores the weight of a module as (in, out); peft's factors do not show it."""
    return module.rpartition(".")[2] in family.transposed


def _as_linear(delta: Any, module: str, family: FamilyNames) -> Any:
    """A low-rank change as peft holds it, (out, in) for every linear map; its own inverse."""
    return delta.transposed() if _flipped(module, family) else delta


def _config(
    rank: int, modules: list[str], task: str | None, header: Mapping[str, str], family: FamilyNames
) -> dict[str, Any]:
    from erase_plugins.artifacts.kohya_header import manifest_of

    base = manifest_of(header).get("base", {})
    return {
        "peft_type": "LORA",
        "task_type": task,
        "base_model_name_or_path": base.get("model"),
        "revision": base.get("revision"),
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": any(_flipped(module, family) for module in modules),
        "inference_mode": True,
        "target_modules": modules,
    }


def _read_one(file: Path, family: FamilyNames) -> Edit:
    from erase_plugins.artifacts.edit import Edit
    from erase_plugins.artifacts.lora_file import Pairs, adapter_scale, collect
    from erase_plugins.artifacts.names import canonical
    from erase_plugins.artifacts.tensors import read_tensors
    from erase_plugins.errors import ArtifactError

    tensors, header = read_tensors(file)
    pairs, places, scales = Pairs(), {}, {}
    for name, tensor in tensors.items():
        found = _TENSOR.match(name)
        if found is None:
            raise ArtifactError(f"{file.name}: '{name[:80]}' is not a LoRA tensor in peft naming")
        pairs.put(found["path"], _PARTS[found["part"]], tensor)
    component = header.get(_COMPONENT) or _guess_component(file, pairs.found, family)
    if component not in family.components:
        raise ArtifactError(f"{file.name}: family {family.id} has no component '{component[:40]}'")
    config = _read_config(file.with_name(CONFIG))
    for stem, group in pairs.found.items():
        places[stem] = (component, canonical(component, stem))
        if "down" in group:
            scales[stem] = adapter_scale(config, stem, group["down"].shape[0])
    edit = collect(family.id, pairs, places, scales)
    return Edit(edit.family, {
        component: {
            key: _as_linear(delta, key.removesuffix(".weight"), family)
            for key, delta in group.items()
        }
        for component, group in edit.deltas.items()
    })  # fmt: skip


def _guess_component(file: Path, stems: Mapping[str, Any], family: FamilyNames) -> str:
    from erase_plugins.errors import ArtifactError

    stem = next(iter(stems), "")
    if re.search(r"\bencoder\.layers\.\d+\.(self_attn|mlp)\b", stem):
        named = [name for name in family.components if file.parent.name.endswith(name)]
        text = [name for name in family.components if name.startswith("text_encoder")]
        if named or len(text) == 1:
            return max(named, key=len) if named else text[0]
        raise ArtifactError(f"{file.name}: which of {', '.join(text)} is this for? name its folder after the component")
    if not re.match(r"(down_blocks|mid_block|up_blocks|conv_|time_embedding|add_embedding)", stem):
        raise ArtifactError(f"{file.name}: '{stem[:80]}' is not a module of family {family.id}")
    return family.components[0]


def _read_config(path: Path) -> Mapping[str, Any]:
    from erase_plugins.errors import ArtifactError, CorruptArtifact

    if not path.is_file():
        raise ArtifactError(f"{CONFIG} is missing beside {MODEL}; the scale of the adapter is in it")
    if path.stat().st_size > 10_000_000:
        raise CorruptArtifact(f"{CONFIG} has {path.stat().st_size} bytes; not a configuration")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CorruptArtifact(f"{CONFIG} is not JSON") from error
    if not isinstance(data, dict) or data.get("peft_type") != "LORA" or any(map(data.get, _OTHER_FORMS)):
        raise ArtifactError(f"{CONFIG} does not describe a plain LoRA")
    start = str(data.get("init_lora_weights"))
    if start.lower().startswith(_CHANGED_BASE):
        raise ArtifactError(
            f"{CONFIG} says init_lora_weights {start[:40]}, which changes the base weights too; "
            "save it as a plain LoRA with peft (path_initial_model_for_weight_conversion) and read that"
        )
    return data


@hookimpl
def erase_layouts() -> list[Any]:
    return [PeftLayout()]
