"""Puts edits on a pipeline and takes them off again, exactly."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import nn

from erase_plugins.artifacts.artifact import Artifact, load_artifact
from erase_plugins.artifacts.edit import CONTEXT, Delta, Edit
from erase_plugins.artifacts.store import lower_for
from erase_plugins.errors import ArtifactError, RequestError, Unsupported
from erase_plugins.families.diffusers_target import DiffusersTarget
from erase_plugins.runtime import addons
from erase_plugins.runtime.context import ActiveMap, attach_map, detach_map
from erase_plugins.runtime.guard import (
    check_base,
    check_compiled,
    check_pipeline,
    context_maps,
    resolve_parameters,
    unread_layers,
)
from erase_plugins.runtime.patcher import LOCK, Patch, attach, detach, refresh, settle

MODES = ("weights", "context")


class Applied:
    """An edit that is in force. Use as a context manager, or call `remove`.

    Attributes:
        patched: number of modules changed; always all of them.
        warnings: why it may do less than expected on this model.
    """

    def __init__(self, pipe: Any, artifact: Artifact, strength: float) -> None:
        self.pipe = pipe
        self.artifact = artifact
        self.strength = strength
        self.patched = 0
        self.warnings: tuple[str, ...] = ()
        self._patches: list[tuple[nn.Parameter, Patch]] = []
        self._maps: list[tuple[nn.Module, ActiveMap]] = []
        self._addons: list[addons.Attached] = []
        self._done = False

    def report(self) -> str:
        """One line: what is patched, at which strength, and the warnings."""
        line = f"{self.artifact.name}: patched {self.patched} of {self.patched} modules, strength {self.strength:g}"
        return "; ".join((line, *self.warnings))

    def set_strength(self, strength: float) -> None:
        """Changes the strength in place; 0 is bit-exact identity.

        Raises:
            RequestError: not a finite number.
            ArtifactError: already removed.
        """
        _check_strength(strength)
        with LOCK:
            self._alive()
            self.strength = strength
            for parameter, patch in self._patches:
                patch.strength = strength
                refresh(parameter)
            for _, item in self._maps:
                item.strength = strength
            for addon in self._addons:
                addon.strength = strength

    def remove(self) -> None:
        """Takes the edit off; every tensor is the one that was there before. Safe to call twice."""
        with LOCK:
            for parameter, patch in self._patches:
                detach(parameter, patch)
            for module, item in self._maps:
                detach_map(module, item)
            for addon in self._addons:
                addon.detach()
            self._patches, self._maps, self._addons = [], [], []
            self._done = True

    def fuse(self) -> None:
        """Makes the change permanent in this pipeline's weights (in memory).

        Raises:
            Unsupported: part of the edit is not a weight change.
        """
        with LOCK:
            self._alive()
            if self._addons or self._maps:
                raise Unsupported("this edit adds modules or maps the context; it cannot be fused into weights")
            shared = [parameter for parameter, patch in self._patches if len(parameter._erase_patches) > 1]  # type: ignore[attr-defined]
            if shared:
                raise ArtifactError("another artifact is applied to the same modules; remove it or merge both first")
            for parameter, _ in self._patches:
                settle(parameter)
            self._patches = []
            self._done = True

    def _alive(self) -> None:
        if self._done:
            raise ArtifactError("this edit was removed or fused already; apply it again")

    def __enter__(self) -> Applied:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._done:
            self.remove()


def apply(
    pipe: Any,
    artifact: Artifact | str | Path,
    strength: float = 1.0,
    *,
    any_base: bool = False,
    mode: str = "weights",
) -> Applied:
    """Applies an artifact to a pipeline. All or nothing: on any error the pipeline is as before.

    Args:
        pipe: diffusers pipeline.
        artifact: an `Artifact` or its path.
        strength: 1 is the evaluated edit, 0 bit-exact identity; negative values strengthen the concept.
        any_base: allow other weights of the same architecture (a fine-tune).
        mode: "weights", or "context" to map the text embeddings instead (context-map artifacts, quantised models).

    Returns:
        The handle that undoes it.

    Raises:
        BaseMismatch, Unsupported, RequestError, CorruptArtifact: nothing was changed.
    """
    _check_strength(strength)
    if mode not in MODES:
        raise RequestError(f"unknown mode '{mode}'; choose one of {', '.join(MODES)}")
    loaded = load_artifact(artifact)
    with LOCK:
        check_compiled(pipe)
        target = DiffusersTarget(pipe)
        check_base(loaded.manifest, target, any_base)
        return attach_edit(pipe, target, loaded, strength, mode)


def apply_all(
    pipe: Any, artifacts: Sequence[Artifact | str | Path], strength: float = 1.0, **options: Any
) -> list[Applied]:
    """Applies several artifacts; changes add up. All or nothing."""
    done: list[Applied] = []
    try:
        for item in artifacts:
            done.append(apply(pipe, item, strength, **options))
    except BaseException:
        for handle in reversed(done):
            handle.remove()
        raise
    return done


def attach_edit(pipe: Any, target: DiffusersTarget, artifact: Artifact, strength: float, mode: str) -> Applied:
    """The unchecked core of `apply` (the base was checked by the caller)."""
    edit = artifact.edit
    maps = context_maps(edit)
    if mode == "context" and not maps:
        raise Unsupported(f"'{artifact.name}' holds no context map; use mode='weights'")
    weights = _without_maps(edit) if mode == "context" else lower_for(edit, target)
    check_pipeline(pipe, tuple(sorted(weights.deltas)))
    parameters = resolve_parameters(weights, target, lambda component: getattr(pipe, component, None))
    applied = Applied(pipe, artifact, strength)
    applied.warnings = unread_layers(edit, target)
    added: dict[str, dict[str, Delta]] = {}
    try:
        if mode == "context":
            for component, mapped in maps.items():
                item = ActiveMap(mapped, strength)
                attach_map(getattr(pipe, component), item)
                applied._maps.append((getattr(pipe, component), item))
        for component, key, delta in weights.items():
            if delta.kind == "addon":
                added.setdefault(component, {})[key] = delta
                continue
            parameter, patch = parameters[(component, key)], Patch(delta, strength)
            attach(parameter, patch)
            applied._patches.append((parameter, patch))
        for component, group in added.items():
            applied._addons += addons.attach_group(getattr(pipe, component), group, strength)
    except BaseException:
        applied.remove()
        raise
    applied.patched = len(applied._patches) + len(applied._maps) + len(applied._addons)
    return applied


def _without_maps(edit: Edit) -> Edit:
    deltas = {
        component: {key: delta for key, delta in group.items() if key != CONTEXT}
        for component, group in edit.deltas.items()
    }
    return Edit(edit.family, {component: group for component, group in deltas.items() if group})


def _check_strength(strength: float) -> None:
    if not isinstance(strength, int | float) or strength != strength or abs(strength) > 100:
        raise RequestError(f"strength {strength!r} is not a usable number; 1 is the evaluated edit, 0 switches it off")
