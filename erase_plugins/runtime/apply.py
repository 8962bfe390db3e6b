"""Puts edits on a pipeline and takes them off again, exactly."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Any

from torch import nn

from erase_plugins.artifacts.artifact import Artifact
from erase_plugins.artifacts.edit import CONTEXT, AddOn, Delta, Edit
from erase_plugins.artifacts.gated import GATE, vocabulary_mark
from erase_plugins.artifacts.names import LEDGER
from erase_plugins.artifacts.policy import NOTHING_REMOVED, policies
from erase_plugins.artifacts.store import lower_for
from erase_plugins.errors import ArtifactError, PipelineChanged, RequestError, Unsupported
from erase_plugins.families.hosted import HostedModel
from erase_plugins.families.hosts import part_of
from erase_plugins.hints import stored
from erase_plugins.runtime import addons
from erase_plugins.runtime.context import ActiveMap, attach_map, detach_map
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
from erase_plugins.runtime.ledger import Ledger, ledger_of, ledgers, together
from erase_plugins.runtime.patcher import LOCK, Patch
from erase_plugins.runtime.twice import refuse_twice, refuse_twin

MODES = ("weights", "context")


class Applied:
    """An edit that is in force. Use as a context manager, or call `remove`.

    While it is, the tensors that were there before stay on their device beside the changed ones: as much memory again
    as the changed parameters take. `fuse` lets go of them, and then nothing can be taken off.

    Attributes:
        patched: number of modules changed; always all of them.
        warnings: why it may do less than expected on this model.
    """

    def __init__(self, pipe: Any, artifact: Artifact, strength: float, family: Any) -> None:
        self.pipe = pipe
        self.family = family
        self.artifact = artifact
        self.strength = strength
        self.patched = 0
        self.warnings: tuple[str, ...] = ()
        self._parts: dict[str, _Part] = {}
        self._weights: Edit | None = None
        self._done = False

    def __repr__(self) -> str:
        return f"<Applied {'(removed) ' if self._done else ''}{self.report()}>"

    def report(self) -> str:
        """One line: what is patched, at which strength, and the warnings."""
        line = f"{self.artifact.name}: patched {self.patched} of {self.patched} modules, strength {self.strength:g}"
        return "; ".join((line, *self.warnings))

    def hangs_on(self, component: str) -> bool:
        """Whether part of the edit acts while this component runs, so that its saved weights do not hold it."""
        part = self._parts.get(component)
        return part is not None and bool(part.maps or part.attached)

    @property
    def weights(self) -> Edit:
        """The edit as changes of weights."""
        if self._weights is None:
            self._weights = lower_for(self.artifact.edit, self.family.wrap(self.pipe))
        return self._weights

    def set_strength(self, strength: float) -> None:
        """Changes the strength in place; 0 is bit-exact identity, the strength that it has changes nothing.

        Raises:
            RequestError: not a finite number.
            ArtifactError: already removed.
            PipelineChanged: the pipeline was changed below the edit; nothing was changed.
        """
        _check_strength(strength)
        with LOCK:
            self._alive()
            if strength == self.strength:
                return
            self._check(f"the strength of '{self.artifact.name}' cannot be set")
            self.strength = strength
            for part in self._parts.values():
                for item in (*part.patches.values(), *part.maps, *part.attached):
                    item.strength = strength
                part.ledger.write(part.patches)

    def remove(self, *, force: bool = False) -> None:
        """Takes the edit off; every tensor is the one that was there before. Safe to call twice.

        Args:
            force: also where something else has changed these tensors since: what it did to them is dropped.

        Raises:
            PipelineChanged: the tensors were changed or replaced by something else since; nothing was changed.
        """
        with LOCK:
            for part in self._parts.values():
                part.ledger.check(f"'{self.artifact.name}' cannot be taken off", part.patches, not force)
            for part in self._parts.values():
                part.ledger.drop(part.patches, list(part.patches.values()))
                part.ledger.write(part.patches)
                self._unhook(part)
                part.ledger.leave(self)
            self._parts = {}
            self._done = True

    def fuse(self) -> None:
        """Makes the change permanent in this pipeline's weights (in memory).

        Raises:
            Unsupported: part of the edit is not a weight change.
            ArtifactError: another artifact changes the same modules.
            PipelineChanged: the pipeline was changed below the edit; nothing was changed.
        """
        with LOCK:
            self._alive()
            if any(self.hangs_on(name) for name in self._parts):
                raise Unsupported("this edit adds modules or maps the context; it cannot be fused into weights")
            records = [part.ledger.records[key] for part in self._parts.values() for key in part.patches]
            if any(len(record.patches) > 1 for record in records):
                raise ArtifactError("another artifact is applied to the same modules; remove it or merge both first")
            self._check(f"'{self.artifact.name}' cannot be fused")
            for part in self._parts.values():
                for key in part.patches:
                    part.ledger.records.pop(key).settle()
                part.ledger.leave(self)
            self._parts = {}
            self._done = True

    def _check(self, what: str) -> None:
        for name, part in self._parts.items():
            now = part_of(self.pipe, name)
            if getattr(now, "_orig_mod", now) is not part.ledger.module:
                raise PipelineChanged(
                    f"{what}: the pipeline has another {name} than the one it was applied to; remove() it and apply it "
                    "again; nothing was changed"
                )
            part.ledger.check(what, part.patches)

    def _unhook(self, part: _Part) -> None:
        for item in part.maps:
            detach_map(part.ledger.module, item)
        for attached in part.attached:
            attached.detach()
            part.ledger.attached.remove(attached)

    def _alive(self) -> None:
        if self._done:
            raise ArtifactError("this edit was removed or fused already; apply it again")

    def __enter__(self) -> Applied:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._done:
            return
        try:
            self.remove()
        except PipelineChanged as problem:
            if error is None:
                raise
            error.add_note(f"the edit is still in force: {stored(problem)}")


@dataclass(eq=False)
class _Part:
    """What an edit does to one component."""

    ledger: Ledger
    patches: dict[str, Patch] = field(default_factory=dict)
    maps: list[ActiveMap] = field(default_factory=list)
    attached: list[addons.Attached] = field(default_factory=list)


def applied(pipe: Any) -> list[Applied]:
    """Edits that are in force on a pipeline, in the order in which they came; each can be changed and removed.

    Args:
        pipe: diffusers pipeline, also another than the one they were applied to, if it shares components with that.
    """
    return list(
        dict.fromkeys(handle for ledger in ledgers(pipe) for handle in ledger.handles if isinstance(handle, Applied))
    )


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
    part = handle._parts.get(name)
    if part is None:
        part = handle._parts[name] = _Part(ledger_of(name, part_of(target.host, name)))
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
    handle = Applied(pipe, artifact, strength, target.family)
    handle.warnings = unread_layers(edit, target)
    handle._weights = None if mode == "context" else weights
    names = {component for component, _, _ in weights.items()} | (set(maps) if mode == "context" else set())
    for name in sorted(names):
        _refuse_twice(handle, name, part_of(pipe, name))
    try:
        for name in sorted(names):
            module = part_of(pipe, name)
            part = handle._parts[name] = _Part(ledger_of(name, module))
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
    handle.patched = sum(len(part.patches) + len(part.maps) + len(part.attached) for part in handle._parts.values())
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
    part: _Part, group: Mapping[str, Delta], parameters: Mapping[Any, nn.Parameter], strength: float,
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
    _check_strength(strength)
    if mode not in MODES:
        raise RequestError(f"unknown mode '{mode}'; choose one of {', '.join(MODES)}")


def _check_strength(strength: float) -> None:
    if not isinstance(strength, int | float) or strength != strength or abs(strength) > 100:
        raise RequestError(f"strength {strength!r} is not a usable number; 1 is the evaluated edit, 0 switches it off")
