"""Checks before anything is changed: does this edit fit this model, and can this pipeline be changed at all?"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from erase_plugins.artifacts.edit import CONTEXT, Bias, ContextMap, Delta, Dense, Edit, LowRank, Rows
from erase_plugins.artifacts.fingerprint import Fingerprint
from erase_plugins.artifacts.manifest import Manifest
from erase_plugins.errors import BaseMismatch, Unsupported


def check_base(manifest: Manifest, target: Any, any_base: bool = False) -> None:
    """Refuses an artifact that was made for another model.

    Args:
        manifest: of the artifact.
        target: the model.
        any_base: accept other weights of the same architecture (a fine-tune).

    Raises:
        BaseMismatch: names both sides and what differs.
    """
    made_for = f"{manifest.base.get('model', 'unknown')} (family {manifest.family})"
    if manifest.family != target.family.id:
        raise BaseMismatch(
            f"'{manifest.name}' was made for {made_for}, this model is {target.info.model} "
            f"(family {target.family.id}); nothing was changed"
        )
    stored: Mapping[str, Any] = manifest.base.get("fingerprint") or {}
    if not stored:
        return
    found = target.fingerprint()
    for component, data in stored.items():
        expected = Fingerprint.from_dict(data)
        if component not in found:
            raise BaseMismatch(f"'{manifest.name}' needs {component}, which this pipeline lacks; nothing was changed")
        result = expected.compare(found[component])
        if result.verdict == "same" or (result.verdict == "weights" and any_base):
            continue
        hint = "; pass --any-base to use it on a fine-tune" if result.verdict == "weights" else ""
        raise BaseMismatch(
            f"'{manifest.name}' was made for {made_for} {component} {expected.short}, this model has "
            f"{found[component].short}: {result}; nothing was changed{hint}"
        )


def check_compiled(pipe: Any) -> None:
    """Refuses compiled components: their captured weights would not see a change.

    Raises:
        Unsupported: names the component.
    """
    for name, module in getattr(pipe, "components", {}).items():
        if hasattr(module, "_orig_mod"):
            raise Unsupported(f"{name} is compiled; apply the artifact first, then call torch.compile")


def check_pipeline(pipe: Any, components: tuple[str, ...]) -> None:
    """Refuses pipelines whose weights cannot be swapped.

    Raises:
        Unsupported: quantised, sequentially offloaded, compiled, or parameters missing.
    """
    for name in components:
        module = getattr(pipe, name, None)
        if module is None:
            raise Unsupported(f"the pipeline has no {name}; nothing was changed")
        for parameter in module.parameters():
            if parameter.device.type == "meta":
                raise Unsupported(f"{name} is offloaded sequentially; apply before enable_sequential_cpu_offload()")
            if not parameter.is_floating_point() or parameter.element_size() < 2:
                raise Unsupported(
                    f"{name} holds {str(parameter.dtype).removeprefix('torch.')} weights; apply before quantising, or "
                    "use mode='context' with a context-map artifact"
                )


def resolve_parameters(edit: Edit, target: Any, owner: Any) -> dict[tuple[str, str], nn.Parameter]:
    """The live parameter for every key of ``edit``; all of them or an error.

    Args:
        edit: lowered edit (no context maps).
        target: the model as `Target`.
        owner: component name -> module.

    Raises:
        BaseMismatch: "patched N of M" with the first missing or misshapen key.
    """
    from erase_plugins.families.unet import canonical

    wanted = [(component, key, delta) for component, key, delta in edit.items() if delta.kind != "addon"]
    table: dict[tuple[str, str], nn.Parameter] = {}
    for component in {component for component, _, _ in wanted}:
        module = owner(component)
        if module is None:
            continue
        for name, parameter in module.named_parameters():
            if ".lora_" not in name:
                table[(component, canonical(component, name))] = parameter
    found = {}
    first = ""
    for component, key, delta in wanted:
        parameter = table.get((component, key))
        problem = "not in this model" if parameter is None else shape_problem(delta, parameter.shape)
        if problem:
            first = first or f"{component} {key}: {problem}"
        elif parameter is not None:
            found[(component, key)] = parameter
    if len(found) < len(wanted):
        raise BaseMismatch(
            f"patched {len(found)} of {len(wanted)} modules of {target.info.model}: {first}; nothing was changed"
        )
    return found


_LAYER = re.compile(r"\bencoder\.layers\.(\d+)\.")


def unread_layers(edit: Edit, target: Any) -> tuple[str, ...]:
    """One sentence for every text encoder whose changes all lie behind the layer that the context is read from."""
    layers: dict[str, list[int | None]] = {}
    for component, key, _ in edit.items():
        found = _LAYER.search(key)
        behind = key.startswith(("final_layer_norm.", "text_projection."))
        layers.setdefault(component, []).append(int(found[1]) if found else (10**6 if behind else None))
    told = []
    for component, numbers in sorted(layers.items()):
        if None in numbers:
            continue
        try:
            end = target.family.text_layers(target.info, component)
        except Unsupported:
            continue
        # where the last layer is read, it is read through the final norm, and nothing lies behind
        early = end < int(target.info.configs[component]["num_hidden_layers"])
        if early and min(number for number in numbers if number is not None) >= end:
            told.append(
                f"{component} is changed only behind layer {end - 1}, where {target.info.model} reads its context: "
                "prompts are encoded as before, except for the pooled row"
            )
    return tuple(told)


def shape_problem(delta: Delta, shape: torch.Size) -> str:
    """Why ``delta`` does not fit a parameter of this shape; empty if it does."""
    if isinstance(delta, LowRank):
        size = delta.B.shape[0] * delta.A[0].numel()
        fits = delta.B.shape[0] == shape[0] and size == shape.numel()
        return "" if fits else f"change is {delta.B.shape[0]} x {tuple(delta.A.shape[1:])}, weight is {tuple(shape)}"
    if isinstance(delta, Dense | Bias):
        dense = delta.dW if isinstance(delta, Dense) else delta.db
        return "" if dense.shape == shape else f"change is {tuple(dense.shape)}, parameter is {tuple(shape)}"
    if isinstance(delta, Rows):
        fits = delta.values.shape[1] == shape[1] and (not delta.index.numel() or int(delta.index.max()) < shape[0])
        return "" if fits and int(delta.index.min()) >= 0 else f"rows do not fit a table of {tuple(shape)}"
    if isinstance(delta, ContextMap):
        return "" if delta.A.shape[1] == shape[-1] else f"map is for width {delta.A.shape[1]}, model has {shape[-1]}"
    return ""


def context_maps(edit: Edit) -> dict[str, ContextMap]:
    """Component -> context map of an edit."""
    found = {}
    for component, key, delta in edit.items():
        if key == CONTEXT and isinstance(delta, ContextMap):
            found[component] = delta
    return found
