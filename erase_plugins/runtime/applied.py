"""The handle of an edit that is in force: sets its strength, takes it off again exactly, or makes it permanent."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from erase_plugins.artifacts.artifact import Artifact
from erase_plugins.artifacts.edit import Edit
from erase_plugins.artifacts.store import lower_for
from erase_plugins.errors import ArtifactError, PipelineChanged, RequestError, Unsupported
from erase_plugins.families.hosts import part_of
from erase_plugins.hints import stored
from erase_plugins.runtime import addons
from erase_plugins.runtime.context import ActiveMap, detach_map
from erase_plugins.runtime.ledger import Ledger, ledgers
from erase_plugins.runtime.patcher import LOCK, Patch


class Applied:
    """An edit that is in force. Use as a context manager, or call `remove`.

    While it is, the tensors that were there before stay on their device beside the changed ones: as much memory again
    as the changed parameters take. `fuse` lets go of them, and then nothing can be taken off.

    Attributes:
        patched: number of modules changed; always all of them.
        warnings: why it may do less than expected on this model.
        parts: component -> what the edit does to it.
    """

    def __init__(
        self, pipe: Any, artifact: Artifact, strength: float, family: Any, weights: Edit | None = None
    ) -> None:  # fmt: skip
        self.pipe = pipe
        self.family = family
        self.artifact = artifact
        self.strength = strength
        self.patched = 0
        self.warnings: tuple[str, ...] = ()
        self.parts: dict[str, Part] = {}
        self._weights = weights
        self._done = False

    def __repr__(self) -> str:
        return f"<Applied {'(removed) ' if self._done else ''}{self.report()}>"

    def report(self) -> str:
        """One line: what is patched, at which strength, and the warnings."""
        line = f"{self.artifact.name}: patched {self.patched} of {self.patched} modules, strength {self.strength:g}"
        return "; ".join((line, *self.warnings))

    def hangs_on(self, component: str) -> bool:
        """Whether part of the edit acts while this component runs, so that its saved weights do not hold it."""
        part = self.parts.get(component)
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
        check_strength(strength)
        with LOCK:
            self._alive()
            if strength == self.strength:
                return
            self._check(f"the strength of '{self.artifact.name}' cannot be set")
            self.strength = strength
            for part in self.parts.values():
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
            for part in self.parts.values():
                part.ledger.check(f"'{self.artifact.name}' cannot be taken off", part.patches, not force)
            for part in self.parts.values():
                part.ledger.drop(part.patches, list(part.patches.values()))
                part.ledger.write(part.patches)
                self._unhook(part)
                part.ledger.leave(self)
            self.parts = {}
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
            if any(self.hangs_on(name) for name in self.parts):
                raise Unsupported("this edit adds modules or maps the context; it cannot be fused into weights")
            records = [part.ledger.records[key] for part in self.parts.values() for key in part.patches]
            if any(len(record.patches) > 1 for record in records):
                raise ArtifactError("another artifact is applied to the same modules; remove it or merge both first")
            self._check(f"'{self.artifact.name}' cannot be fused")
            for part in self.parts.values():
                for key in part.patches:
                    part.ledger.records.pop(key).settle()
                part.ledger.leave(self)
            self.parts = {}
            self._done = True

    def _check(self, what: str) -> None:
        for name, part in self.parts.items():
            now = part_of(self.pipe, name)
            if getattr(now, "_orig_mod", now) is not part.ledger.module:
                raise PipelineChanged(
                    f"{what}: the pipeline has another {name} than the one it was applied to; remove() it and apply it "
                    "again; nothing was changed"
                )
            part.ledger.check(what, part.patches)

    def _unhook(self, part: Part) -> None:
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
class Part:
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


def check_strength(strength: float) -> None:
    """Refuses a strength that is no usable number.

    Raises:
        RequestError: says which would do.
    """
    if not isinstance(strength, int | float) or strength != strength or abs(strength) > 100:
        raise RequestError(f"strength {strength!r} is not a usable number; 1 is the evaluated edit, 0 switches it off")
