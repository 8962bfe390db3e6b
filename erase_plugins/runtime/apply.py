"""Puts edits on a pipeline."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from torch import nn

from erase_plugins.artifacts.artifact import Artifact
from erase_plugins.artifacts.edit import CONTEXT, AddOn, Delta, Edit
from erase_plugins.artifacts.gated import GATE, vocabulary_mark
from erase_plugins.artifacts.names import LEDGER
from erase_plugins.artifacts.policy import NOTHING_REMOVED, policies
from erase_plugins.artifacts.store import lower_for
from erase_plugins.errors import RequestError, Unsupported
from erase_plugins.families.hosted import HostedModel
from erase_plugins.families.hosts import part_of
from erase_plugins.runtime import addons
from erase_plugins.runtime.applied import Applied, Part, applied, check_strength
from erase_plugins.runtime.context import ActiveMap, attach_map
from erase_plugins.runtime.fused import refuse_fused
from erase_plugins.runtime.guard import (
    check_base,
    check_compiled,
    check_gated,
    check_parents,
    check_pipeline,
    context_maps,
    resolve_parameters,
    unread_layers,
    written,
)
from erase_plugins.runtime.guardrails.attach import attach_guards, component_of
from erase_plugins.runtime.ledger import ledger_of, together
from erase_plugins.runtime.patcher import LOCK, Patch
from erase_plugins.runtime.twice import refuse_twice, refuse_twin

MODES = ("weights", "context")


def apply_to(
    target: HostedModel, artifact: Artifact, strength: float = 1.0, *, any_base: bool = False, mode: str = "weights",
    guard_key: bytes = b"",
) -> Applied:  # fmt: skip
    """Applies an artifact to the host of a loaded model; see `workflow.applying.apply`."""
    check_settings(strength, mode)
    with LOCK:
        check_compiled(target.host)
        with target.held():  # both read the fingerprint
            _refuse_fused(artifact, target)
            notes = check_base(artifact.manifest, target, any_base, artifact.edit)
        check_parents(artifact, [handle.artifact for handle in applied(target.host)], any_base)
        handle = attach_edit(target.host, target, artifact, strength, mode)
        handle.warnings += notes
        if policies(artifact.manifest):
            _guard(handle, target, guard_key, any_base)
        return handle


def _refuse_fused(artifact: Artifact, target: HostedModel) -> None:
    for component in context_maps(artifact.edit) if artifact.manifest.family == target.family.id else ():
        refs = [ref for ref in target.readers() if ref.component == component]
        live = target.fingerprint().get(component)
        if live is not None:
            weights = {ref.weight: partial(target.base_weight, ref) for ref in refs}
            refuse_fused(artifact, component, live, weights, {ref.weight: target.columns(ref) for ref in refs})


def _guard(handle: Applied, target: HostedModel, key: bytes, any_base: bool) -> None:
    """Puts the guards of an artifact in front of the model too; a guard that cannot stand leaves nothing behind."""
    try:
        guards = attach_guards(handle.artifact.manifest, target, handle.strength, key, any_base)
    except BaseException:
        handle.remove(force=True)
        raise
    name = component_of(target)
    part = handle.parts.get(name)
    if part is None:
        part = handle.parts[name] = Part(ledger_of(name, part_of(target.host, name)))
        part.ledger.enter(handle)
    part.attached += guards
    part.ledger.attached += guards
    part.ledger.watch_passes()
    handle.patched += len(guards)
    handle.warnings += (NOTHING_REMOVED,)


def all_of(steps: Iterable[Callable[[], Applied]]) -> list[Applied]:
    """Handles of several edits that are applied one after the other; where one fails, all are taken off again."""
    done: list[Applied] = []

    def undo() -> None:
        for handle in reversed(done):
            handle.remove()

    try:
        with together():
            try:
                for step in steps:
                    done.append(step())
            except BaseException:
                undo()  # before anything was written
                raise
    except BaseException:
        undo()
        raise
    return done


def attach_edit(pipe: Any, target: HostedModel, artifact: Artifact, strength: float, mode: str) -> Applied:
    """The unchecked core of `apply` (the base was checked by the caller)."""
    edit = artifact.edit
    maps = context_maps(edit)
    if mode == "context" and not maps:
        raise Unsupported(f"'{artifact.name}' holds no context map; use mode='weights'")
    weights = _without_maps(edit) if mode == "context" else edit
    check_pipeline(pipe, written(weights, target))
    check_gated(pipe, edit)
    weights = lower_for(weights, target)
    parameters = resolve_parameters(weights, target)
    handle = Applied(pipe, artifact, strength, target.family, None if mode == "context" else weights)
    handle.warnings = unread_layers(edit, target)
    names = {component for component, _, _ in weights.items()} | (set(maps) if mode == "context" else set())
    for name in sorted(names):
        _refuse_twice(handle, name, part_of(pipe, name))
    try:
        for name in sorted(names):
            module = part_of(pipe, name)
            part = handle.parts[name] = Part(ledger_of(name, module))
            part.ledger.enter(handle)
            group = weights.deltas.get(name, {})
            encoder, note = watched_encoder(pipe, target, group)
            handle.warnings += note
            _attach(part, group, parameters, strength, encoder)
            if mode == "context" and name in maps:
                item = ActiveMap(maps[name], strength)
                attach_map(module, item)
                part.maps.append(item)
                part.ledger.watch_passes()
    except BaseException:
        handle.remove(force=True)
        raise
    handle.patched = sum(len(part.patches) + len(part.maps) + len(part.attached) for part in handle.parts.values())
    return handle


def _refuse_twice(handle: Applied, name: str, module: nn.Module) -> None:
    ledger = getattr(module, LEDGER, None)
    if ledger is not None:
        refuse_twice(handle.artifact, handle.weights, [ledger])
        ledger.check(f"'{handle.artifact.name}' cannot be applied above another edit")
    if getattr(module, "peft_config", None):
        refuse_twin(handle.artifact.name, handle.weights, name, module)


def watched_encoder(pipe: Any, target: Any, group: Mapping[str, Delta]) -> tuple[nn.Module | None, tuple[str, ...]]:
    """The text encoder whose prompts a gate of this component can look for names in, or why there is none."""
    gate = group.get(GATE)
    if not isinstance(gate, AddOn) or not gate.config.get("names"):
        return None, ()
    encoder = first_encoder(pipe, target)
    if encoder is None or vocabulary_mark(target.vocabulary()) != gate.config.get("tokenizer"):
        return None, (
            "the gate knows its concept's name by the token numbers of another tokenizer; it judges prompts by their "
            "embeddings alone",
        )
    return encoder, ()


def first_encoder(pipe: Any, target: HostedModel) -> nn.Module | None:
    """The text encoder that makes the first columns of a pipeline's context; None if it has none."""
    names = [name for name in target.family.components if name.startswith("text_encoder")]
    found = [part_of(pipe, name) for name in sorted(names)]
    return next((getattr(item, "_orig_mod", item) for item in found if isinstance(item, nn.Module)), None)


def _attach(
    part: Part, group: Mapping[str, Delta], parameters: Mapping[Any, nn.Parameter], strength: float,
    encoder: nn.Module | None = None,
) -> None:  # fmt: skip
    ledger = part.ledger
    added = {key: delta for key, delta in group.items() if delta.kind == "addon"}
    for key in sorted(group.keys() - added.keys()):
        patch = Patch(group[key], strength)
        ledger.record(key, parameters[(ledger.name, key)]).patches.append(patch)
        part.patches[key] = patch
    ledger.write(part.patches)
    if added:
        part.attached = addons.attach_group(ledger.module, added, strength, encoder)
        ledger.attached += part.attached
        ledger.watch_passes()
        for item in part.attached:
            item.keep(ledger.module)


def _without_maps(edit: Edit) -> Edit:
    deltas = {
        component: {key: delta for key, delta in group.items() if key != CONTEXT}
        for component, group in edit.deltas.items()
    }
    return Edit(edit.family, {component: group for component, group in deltas.items() if group})


def check_settings(strength: float, mode: str) -> None:
    """Refuses a strength that is no usable number, and an unknown mode.

    Raises:
        RequestError: says what would do.
    """
    check_strength(strength)
    if mode not in MODES:
        raise RequestError(f"unknown mode '{mode}'; choose one of {', '.join(MODES)}")
