"""Checks before anything is changed: does this edit fit this model, and can this pipeline be changed at all?"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from erase_plugins.artifacts.artifact import Artifact
from erase_plugins.artifacts.edit import CONTEXT, AddOn, ContextMap, Delta, Dense, Edit, LowRank, Rows, Sparse
from erase_plugins.artifacts.fingerprint import Fingerprint, readable
from erase_plugins.artifacts.gated import GATE, GATED
from erase_plugins.artifacts.lineage import missing, needs
from erase_plugins.artifacts.manifest import Manifest
from erase_plugins.artifacts.names import live_parameters
from erase_plugins.artifacts.prompt_guards import PROMPT_GUARDS
from erase_plugins.errors import BaseMismatch, Unsupported
from erase_plugins.families.hosts import part_of, parts_of
from erase_plugins.hints import ANY_BASE, Sentence
from erase_plugins.runtime.integrity import fused_projections, holds_parts, kept_elsewhere


def check_base(manifest: Manifest, target: Any, any_base: bool = False, edit: Edit | None = None) -> tuple[str, ...]:
    """Refuses an artifact that was made for another model.

    Args:
        manifest: of the artifact.
        target: the model.
        any_base: accept other weights of the same architecture (a fine-tune).
        edit: of the artifact: only what it changes or reads has to be the same; everything if None.

    Returns:
        One sentence for every part that is not the same without being touched, or that could not be read.

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
        return ()
    found = target.fingerprint()
    names = None if edit is None else touched(edit, target)
    notes = []
    for component, data in stored.items():
        expected, only = Fingerprint.from_dict(data), None if names is None else names.get(component, frozenset())
        idle = only is not None and not only
        if component not in found:
            if not idle:
                raise BaseMismatch(
                    f"'{manifest.name}' needs {component}, which this pipeline lacks; nothing was changed"
                )
            continue
        result = expected.compare(found[component], None if idle else only)
        if result.unread and not idle:
            notes.append(
                f"{result.unread} of {result.total} values of {component} cannot be read (quantised or offloaded) and "
                "were not compared with the base"
            )
        if result.verdict == "same" or (result.verdict == "weights" and any_base):
            continue
        if idle:
            notes.append(f"{component} is not the one that the artifact was made with ({result}); it is not changed")
            continue
        hint = Sentence("; ", ANY_BASE, " to use it on a fine-tune") if result.verdict == "weights" else ""
        raise BaseMismatch(
            f"'{manifest.name}' was made for {made_for} {component} {expected.short}, this model has "
            f"{found[component].short}: {result}; nothing was changed",
            hint,
        )
    return tuple(notes)


def check_parents(artifact: Artifact, others: Sequence[Artifact], any_base: bool = False) -> None:
    """Refuses an artifact that was trained on top of others which are not in force.

    Raises:
        BaseMismatch: says how many are missing.
    """
    if gone := () if any_base else missing(artifact, others):
        raise BaseMismatch(
            f"'{artifact.name}' was trained on top of {len(needs(artifact.manifest))} other artifacts, and "
            f"{len(gone)} of them are not in force (first {gone[0][:12]}); apply those first, or merge all of them; "
            "nothing was changed"
        )


def touched(edit: Edit, target: Any) -> dict[str, frozenset[str] | None]:
    """Component -> names of the parameters that an edit changes, or whose output it was made for; None for all.

    Context maps, gates and guards on prompts are made for the embeddings of the text encoders; those count as a whole.
    """
    found: dict[str, set[str]] = {}
    for component, key, delta in edit.items():
        names = found.setdefault(component, set())
        if key == CONTEXT:
            names |= {ref.weight for ref in target.readers() if ref.component == component}
        elif key != GATE and isinstance(delta, AddOn):  # made for the output of a module, so for all weights in it
            inside = (ref for ref in target.info.refs if ref.component == component)
            names |= {ref.weight for ref in inside if f"{ref.path}.".startswith(f"{key}.")}
        elif key != GATE:
            names.add(key)
    whole = any(key in (CONTEXT, GATE) or getattr(delta, "type", "") in PROMPT_GUARDS for _, key, delta in edit.items())
    encoders = [name for name in target.family.components if whole and name.startswith("text_encoder")]
    return {name: frozenset(group) for name, group in found.items()} | dict.fromkeys(encoders)


def check_compiled(pipe: Any) -> None:
    """Refuses compiled components: their captured weights would not see a change.

    Raises:
        Unsupported: names the component.
    """
    for name, module in parts_of(pipe).items():
        if hasattr(module, "_orig_mod"):
            raise Unsupported(f"{name} is compiled; apply the artifact first, then call torch.compile")


def written(edit: Edit, target: Any) -> dict[str, frozenset[str]]:
    """Component -> names of the parameters that get other values; what hangs on modules writes none."""
    groups = {
        component: {key: delta for key, delta in group.items() if not isinstance(delta, AddOn)}
        for component, group in edit.deltas.items()
    }
    found = touched(Edit(edit.family, {component: group for component, group in groups.items() if group}), target)
    return dict.fromkeys(groups, frozenset()) | {name: names for name, names in found.items() if names is not None}


def check_pipeline(pipe: Any, names: Mapping[str, Collection[str]]) -> None:
    """Refuses pipelines whose weights cannot be swapped.

    Args:
        pipe: the pipeline.
        names: what is to be changed, see `written`.

    Raises:
        Unsupported: quantised, offloaded layer by layer, fused projections of their own, no such component.
    """
    for component, wanted in names.items():
        module = part_of(pipe, component)
        if module is None:
            raise Unsupported(f"the pipeline has no {component}; nothing was changed")
        live = live_parameters(component, module)
        if wanted and kept_elsewhere(module):
            raise Unsupported(
                f"{component} takes its weights from copies that group offloading keeps (use_stream, "
                "offload_to_disk_path), past what is written into them; apply before enable_group_offload(), without a "
                "stream or a disk, or use mode='context' with a context-map artifact"
            )
        for name in sorted(name for name in wanted if name in live):
            _check_writable(component, name, live[name])
        for fused, parts, name in fused_projections(module, wanted):
            if not holds_parts(fused, parts):
                raise Unsupported(
                    f"{component} {name} does not hold the weights that it was fused from; call "
                    "pipe.unfuse_qkv_projections(), apply, then fuse again"
                )


def _check_writable(component: str, name: str, parameter: nn.Parameter) -> None:
    if parameter.device.type == "meta":
        raise Unsupported(
            f"{component} is offloaded layer by layer ({name} is not loaded); apply before "
            "enable_sequential_cpu_offload() or cpu_offload(), or use mode='context' with a context-map artifact"
        )
    if readable(parameter):
        return
    kind = type(parameter.detach()).__name__
    kind = str(parameter.dtype).removeprefix("torch.") if kind in ("Tensor", "Parameter") else kind
    raise Unsupported(
        f"{component} holds {kind} weights ({name}); apply before quantising, or use mode='context' with a "
        "context-map artifact"
    )


def check_gated(pipe: Any, edit: Edit) -> None:
    """Refuses gates where samples of one batch go through a layer apart from each other.

    Raises:
        Unsupported: perturbed-attention guidance, which splits the batch in self-attention.
    """
    if hasattr(pipe, "set_pag_applied_layers"):
        for component, key, delta in edit.items():
            if isinstance(delta, AddOn) and delta.type == GATED and ".attn1." in f".{key}.":
                raise Unsupported(
                    f"perturbed-attention guidance splits the batch in self-attention, where the gate of {component} "
                    f"{key} cannot follow it; use the pipeline without PAG, or an artifact without gates"
                )


def resolve_parameters(edit: Edit, target: Any) -> dict[tuple[str, str], nn.Parameter]:
    """The live parameter for every key of ``edit``; all of them or an error.

    Args:
        edit: lowered edit (no context maps).
        target: the model as `Target`.

    Raises:
        BaseMismatch: "patched N of M" with the first missing or misshapen key.
    """
    wanted = [(component, key, delta) for component, key, delta in edit.items() if delta.kind != "addon"]
    table: dict[tuple[str, str], nn.Parameter] = {}
    for component in {component for component, _, _ in wanted}:
        table |= {(component, name): item for name, item in target.live(component).items()}
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
    if isinstance(delta, Dense):
        dense = delta.dW
        return "" if dense.shape == shape else f"change is {tuple(dense.shape)}, parameter is {tuple(shape)}"
    if isinstance(delta, Sparse):
        found = tuple(delta.shape.tolist())
        return "" if found == tuple(shape) else f"change is {found}, parameter is {tuple(shape)}"
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
