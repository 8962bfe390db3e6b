"""The same change must not act twice: applied again, alone or as part of another, or loaded beside it as a LoRA."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from erase_plugins.artifacts.artifact import Artifact
from erase_plugins.artifacts.difference import difference
from erase_plugins.artifacts.edit import Dense, Edit, LowRank, Sparse
from erase_plugins.artifacts.gated import is_gated, plain_lora
from erase_plugins.artifacts.header import read_header
from erase_plugins.artifacts.lineage import parts
from erase_plugins.artifacts.manifest import HEADER_KEY, Manifest
from erase_plugins.artifacts.names import canonical
from erase_plugins.artifacts.overlap import in_both, member_marks
from erase_plugins.errors import AlreadyApplied, EraseError
from erase_plugins.runtime.patcher import checksum

#: cosine from which a LoRA is the same change; files of it are rounded to 16 bits, others are not even near
_SAME = 0.999
#: the same of two artifacts; the same concept erased in two ways comes nearer to each other than strangers' files do
_EQUAL = 0.9999
#: how diffusers and transformers call the argument that says which LoRA is loaded
_SOURCES = "pretrained_model_name_or_path_or_dict", "peft_model_id"


def same_edit(first: Edit, second: Edit) -> bool:
    """Whether two edits hold the same changes to the last bit, at whatever strength."""
    if first.deltas is second.deltas:
        return True
    return mark(first) == mark(second) and not difference(first, second, strength=False)


def mark(edit: Edit) -> tuple[Any, ...]:
    """A few facts and one value of an edit, which others hardly share."""
    found: tuple[Any, ...] | None = edit.__dict__.get("_mark")
    if found is None:
        component, key, delta = next(iter(edit.items()), ("", "", None))
        tensors = {} if delta is None else delta.tensors()
        name, tensor = next(((name, part) for name, part in tensors.items() if part.numel()), ("", None))
        value = None if tensor is None else tensor.flatten()[tensor.numel() // 2].item()
        found = (len(edit), component, key, name, value)
        object.__setattr__(edit, "_mark", found)
    return found


def same_change(first: tuple[Artifact, Edit], second: tuple[Artifact, Edit]) -> bool:
    """Whether two edits change the same weights in the same way, at whatever strength: an artifact and a LoRA of it.

    Args:
        first, second: artifacts with their edits as changes of weights (`artifacts.store.lower_for`); what is none is
            equal to nothing, and what both say to erase must not be apart, since a method may do the same for any
            concept. Of two gated ones, equal memories may stand behind other gates (see `artifacts.overlap`).
    """
    one, other = (set(artifact.manifest.erased) for artifact, _ in (first, second))
    if one and other and one.isdisjoint(other):
        return False
    if is_gated(first[1]) and is_gated(second[1]):
        return False
    mine, theirs = (_changes(edit) for _, edit in (first, second))
    if not mine or mine.keys() != theirs.keys():
        return False
    return all(_cosine(delta, theirs[place]) > _EQUAL for place, delta in mine.items())


def _changes(edit: Edit) -> dict[tuple[str, str], Any]:
    found = {(component, key): delta for component, key, delta in plain_lora(edit).items()}
    return found if all(isinstance(delta, LowRank | Dense | Sparse) for delta in found.values()) else {}


@torch.no_grad()
def _cosine(first: Any, second: Any) -> float:
    """1 for the same direction; 0 where one of them is nothing, or they have no common shape."""
    if not all(isinstance(delta, LowRank) for delta in (first, second)):
        first, second = (Dense(delta.dense()) for delta in (first, second))
    if _ends(first) != _ends(second):
        return 0.0
    size = math.sqrt(max(_inner(first, first) * _inner(second, second), 0.0))
    return _inner(first, second) / size if size else 0.0


def _ends(delta: Any) -> tuple[int, ...]:
    """Shape of a change; of factors, how much comes out and how much goes in."""
    return tuple(delta.dW.shape) if isinstance(delta, Dense) else (len(delta.B), math.prod(delta.A.shape[1:]))


def _inner(first: Any, second: Any) -> float:
    """Inner product of two changes; of factors without writing them out, so that many pairs cost little."""
    if isinstance(first, Dense):
        return float(first.dW.cpu().double().flatten() @ second.dW.cpu().double().flatten())
    (a, b), (c, d) = ((part.cpu().double().flatten(1) for part in (item.A, item.B)) for item in (first, second))
    return float(((b.T @ d) * (a @ c.T)).sum())


def refuse_twice(artifact: Artifact, weights: Edit, found: list[Any]) -> None:
    """Refuses an edit that is in force already, as it is or as part of another, and one that another is part of.

    Args:
        artifact: what is to be applied.
        weights: its edit as changes of weights.
        found: ledgers of the components that it changes.

    Raises:
        AlreadyApplied: says how to change its strength, or what to take off first.
    """
    name, edit = artifact.name, artifact.edit
    for ledger in found:
        if (name, mark(edit)) in ledger.copied:
            raise AlreadyApplied(
                f"'{name}' acts here already: this {ledger.name} is a copy of one to which it was applied; a copy "
                "cannot be changed, so load the model again, or copy it before apply"
            )
        for handle in ledger.handles:
            if same_edit(handle.artifact.edit, edit):
                raise AlreadyApplied(
                    f"'{name}' is applied already at strength {handle.strength:g}, to this pipeline or one that shares "
                    f"its {ledger.name}; set the strength of that instead: erase_plugins.applied(pipe) finds its handle"
                )
            if same_change((handle.artifact, handle.weights), (artifact, weights)):
                raise AlreadyApplied(
                    f"'{name}' is '{handle.artifact.name}' in another form, which is applied already at strength "
                    f"{handle.strength:g}; it would act twice: set the strength of that instead "
                    "(erase_plugins.applied(pipe) finds its handle)"
                )
            if both := in_both(artifact, handle.artifact):
                raise AlreadyApplied(
                    f"'{name}' holds {both[0]}{_and_more(both)}, as does '{handle.artifact.name}', which is applied "
                    f"already at strength {handle.strength:g}; it would act twice: take that off first "
                    "(erase_plugins.applied(pipe) finds its handle)"
                )


def _and_more(both: Sequence[str]) -> str:
    return f" and {len(both) - 1} more" if len(both) > 1 else ""


def refuse_twin(name: str, weights: Edit, component: str, module: nn.Module) -> None:
    """Refuses an edit that is loaded as a LoRA already.

    Args:
        name: of the artifact.
        weights: the edit as weight changes.
        component, module: a part of the pipeline.

    Raises:
        AlreadyApplied: names the adapter.
    """
    for adapter in twins(weights, component, module):
        raise AlreadyApplied(
            f"'{name}' is loaded already as LoRA adapter '{adapter}' on {component}; call "
            f"pipe.delete_adapters('{adapter}') first, or leave it at that"
        )


def twins(weights: Edit, component: str, module: nn.Module) -> Iterator[str]:
    """Names of LoRA adapters that hold the same change, at whatever scale."""
    wanted: Mapping[str, Any] = {
        key: delta for key, delta in plain_lora(weights).deltas.get(component, {}).items() if delta.kind == "lowrank"
    }
    layers: dict[str, list[tuple[Any, Any]]] = {}
    for path, layer in module.named_modules():
        for adapter in getattr(layer, "lora_A", ()):
            delta = wanted.get(f"{canonical(component, path)}.weight")
            layers.setdefault(adapter, []).append((layer, delta))
    for adapter, pairs in layers.items():
        if all(delta is not None and _parallel(layer, adapter, delta) for layer, delta in pairs):
            yield adapter


@torch.no_grad()
def _parallel(layer: Any, adapter: str, delta: Any) -> bool:
    return _cosine(Dense(layer.get_delta_weight(adapter)), delta) > _SAME


def told_by(args: Sequence[Any], more: Mapping[str, Any]) -> Artifact | None:
    """What the header of a file that is about to be loaded as a LoRA says it is; None where nothing is known before.

    Args:
        args, more: of the call that loads it. A file is known, or a folder with ``weight_name``, if it is ours; a
            dictionary is not, and neither is what is fetched from the Hub.
    """
    source = args[0] if args else next((more[name] for name in _SOURCES if name in more), None)
    if not isinstance(source, str | os.PathLike):
        return None
    place = Path(source)
    if place.is_dir():
        place = place / (more.get("subfolder") or "") / (more.get("weight_name") or "adapter_model.safetensors")
    try:
        text = read_header(place).metadata.get(HEADER_KEY) if place.is_file() else None
        manifest = None if text is None else Manifest.from_json(text)
    except (EraseError, OSError):  # whoever loads it says so
        return None
    return None if manifest is None else Artifact(manifest, Edit(manifest.family, {}))


def refuse_parts(artifact: Artifact | None, found: list[Any]) -> None:
    """Refuses a file that holds part of what is in force; one that holds all of it is known by its weights.

    Args:
        artifact: what the file says it is, see `told_by`.
        found: ledgers of the components.

    Raises:
        AlreadyApplied: names the part and the edit.
    """
    handles = () if artifact is None else dict.fromkeys(handle for ledger in found for handle in ledger.handles)
    for handle in handles:
        assert artifact is not None
        both, whole = in_both(artifact, handle.artifact), handle.artifact
        if both and (member_marks(artifact), parts(artifact.manifest)) != (member_marks(whole), parts(whole.manifest)):
            raise AlreadyApplied(
                f"this LoRA holds {both[0]}{_and_more(both)}, as does '{handle.artifact.name}', which is applied "
                f"already at strength {handle.strength:g}; nothing was loaded: call remove() of that handle first, or "
                "leave it at that"
            )


def refuse_twin_adapters(owner: Any, found: list[Any], inner: Callable[[], Any]) -> Any:
    """Loads a LoRA and takes it out again where it holds a change that is in force already.

    Adapters that are as before are not looked at again; one that is swapped for another keeps its name only.

    Raises:
        AlreadyApplied: names the edit.
    """
    before = {id(ledger): _adapters(ledger.module) for ledger in found}
    result = inner()
    for ledger in found:
        for handle in ledger.handles:
            for adapter in twins(handle.weights, ledger.name, ledger.module):
                if before[id(ledger)].get(adapter) == _adapters(ledger.module)[adapter]:
                    continue
                if hasattr(owner, "delete_adapters"):
                    owner.delete_adapters(adapter)
                    if not any(before.values()):
                        _unload(owner)
                else:
                    _take_out(ledger.module, adapter)
                raise _loaded_beside(handle)
    return result


def refuse_twin_state(ledger: Any) -> None:
    """Takes an adapter out again that peft itself has just filled, where it holds a change that is in force already.

    Raises:
        AlreadyApplied: names the edit.
    """
    for handle in ledger.handles:
        for adapter in twins(handle.weights, ledger.name, ledger.module):
            _take_out(ledger.module, adapter)
            raise _loaded_beside(handle)


def _loaded_beside(handle: Any) -> AlreadyApplied:
    return AlreadyApplied(
        f"this LoRA is '{handle.artifact.name}', which is applied already at strength {handle.strength:g}; it was not "
        "kept: call remove() of that handle first, or leave it at that"
    )


def _take_out(module: Any, adapter: str) -> None:
    """Takes an adapter of peft's off a module; layers that have no other are the plain ones again."""
    for path, layer in list(module.named_modules()):
        if adapter in getattr(layer, "lora_A", ()):
            layer.delete_adapter(adapter)
            if not layer.lora_A:
                parent, _, name = path.rpartition(".")
                setattr(module.get_submodule(parent), name, layer.get_base_layer())
    config = getattr(module, "peft_config", None)
    if config:
        config.pop(adapter, None)
    if config == {}:
        del module.peft_config
        if hasattr(type(module), "_hf_peft_config_loaded"):
            module._hf_peft_config_loaded = False


def _unload(owner: Any) -> None:
    if hasattr(owner, "unload_lora_weights"):
        owner.unload_lora_weights()  # a pipeline
    else:
        owner.unload_lora()


def _adapters(module: nn.Module) -> dict[str, int]:
    """Names of LoRA adapters, each with a number of all its bits."""
    found = dict.fromkeys(getattr(module, "peft_config", ()) or (), 0)
    for layer in module.modules():
        for name, part in getattr(layer, "lora_B", {}).items():
            seen = (item.data for item in part.parameters() if item.device.type != "meta")
            found[name] = found.get(name, 0) + sum(map(checksum, seen))
    return found
