"""The same change must not act twice: applied again, alone or as part of another, or loaded beside it as a LoRA."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from erase_plugins.artifacts.artifact import Artifact
from erase_plugins.artifacts.edit import Edit
from erase_plugins.artifacts.gated import plain_lora
from erase_plugins.artifacts.names import canonical
from erase_plugins.artifacts.overlap import in_both
from erase_plugins.errors import AlreadyApplied
from erase_plugins.runtime.patcher import checksum

#: cosine from which a LoRA is the same change; files of it are rounded to 16 bits, others are not even near
_SAME = 0.999


def same_edit(first: Edit, second: Edit) -> bool:
    """Whether two edits hold the same changes, to the last bit."""
    if first.deltas is second.deltas:
        return True
    if mark(first) != mark(second):
        return False
    mine, theirs = list(first.items()), list(second.items())
    if [item[:2] for item in mine] != [item[:2] for item in theirs]:
        return False
    return all(_same_delta(a[2], b[2]) for a, b in zip(mine, theirs, strict=True))


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


def _same_delta(first: Any, second: Any) -> bool:
    a, b = first.tensors(), second.tensors()
    return first.kind == second.kind and a.keys() == b.keys() and all(_equal(a[name], b[name]) for name in a)


def _equal(first: Tensor, second: Tensor) -> bool:
    return first.shape == second.shape and first.dtype == second.dtype and torch.equal(first, second.to(first.device))


def refuse_twice(artifact: Artifact, found: list[Any]) -> None:
    """Refuses an edit that is in force already, as it is or as part of another, and one that another is part of.

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
            if both := in_both(artifact, handle.artifact):
                more = f" and {len(both) - 1} more" if len(both) > 1 else ""
                raise AlreadyApplied(
                    f"'{name}' holds {both[0]}{more}, as does '{handle.artifact.name}', which is applied already at "
                    f"strength {handle.strength:g}; it would act twice: take that off first "
                    "(erase_plugins.applied(pipe) finds its handle)"
                )


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
    change, mine = (part.cpu().double().flatten() for part in (layer.get_delta_weight(adapter), delta.dense()))
    size = float(change.norm() * mine.norm())
    return change.shape == mine.shape and size > 0 and float(change @ mine) / size > _SAME


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
