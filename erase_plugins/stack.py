"""A stack: several artifacts in force together, each with its strength, from which single ones can be taken out.

Closed-form members are solved jointly, all others add up. A stack is solved anew from its members every time, so one
without a member is the stack that never held it, to the last bit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from erase_plugins.artifacts.artifact import Artifact
from erase_plugins.artifacts.solved import statistics_of
from erase_plugins.errors import ArtifactError, RequestError, UnknownName


@dataclass(frozen=True, eq=False)
class Entry:
    """A member and its strength."""

    artifact: Artifact
    strength: float = 1.0


@dataclass(frozen=True, eq=False)
class Layer:
    """What is applied at one strength: a joint solution of several members, or one member as it is."""

    artifact: Artifact
    strength: float
    members: tuple[str, ...]
    joint: bool


@dataclass(frozen=True, eq=False)
class Stack:
    """Members in the order in which they were given.

    Raises:
        RequestError: a name occurs twice, or a strength is not a number.
        BaseMismatch: made for different bases.
    """

    entries: tuple[Entry, ...]

    def __post_init__(self) -> None:
        from erase_plugins.workflow.merged import same_base

        names = [entry.artifact.name for entry in self.entries]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            both = (entry.artifact.path for entry in self.entries if entry.artifact.name == twice[0])
            folders = list(dict.fromkeys(path.name for path in both if path is not None))
            where = f" (as {' and '.join(repr(name) for name in folders)})" if len(folders) > 1 else ""
            raise RequestError(f"'{twice[0]}' is in the stack twice{where}; give it once, with one strength")
        for entry in self.entries:
            if not math.isfinite(entry.strength):
                raise RequestError(f"strength {entry.strength!r} of '{entry.artifact.name}' is not a usable number")
        if self.entries:
            same_base([entry.artifact for entry in self.entries])

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all members."""
        return tuple(entry.artifact.name for entry in self.entries)

    @property
    def erased(self) -> tuple[str, ...]:
        """Texts of all erased concepts, each once."""
        return tuple(dict.fromkeys(text for entry in self.entries for text in entry.artifact.manifest.erased))

    def without(self, names: Iterable[str], *, forget: bool = True) -> Stack:
        """The stack without some members or concepts.

        Args:
            names: names of members, or texts of erased concepts; a concept that is one of several of a member is taken
                out of that member.
            forget: as if the concept had never been erased; otherwise its rows are kept from now on.

        Raises:
            UnknownName: suggests close matches.
            ArtifactError: a member that erases several concepts has no statistics to take one out of.
        """
        from erase_plugins.compose import revoke

        entries = list(self.entries)
        for name in names:
            found = [entry for entry in entries if name == entry.artifact.name]
            found = found or [entry for entry in entries if name in entry.artifact.manifest.erased]
            if not found:
                raise UnknownName("member or concept in this stack", name, {*self.names, *self.erased})
            for entry in found:
                place = entries.index(entry)
                whole = name == entry.artifact.name or entry.artifact.manifest.erased == (name,)
                less = [] if whole else [replace(entry, artifact=revoke(entry.artifact, name, forget=forget))]
                entries[place : place + 1] = less
        return Stack(tuple(entries))

    def layers(self, target: Any = None, *, encode: bool = False) -> tuple[Layer, ...]:
        """What has to be applied, members at strength 0 left out.

        Args:
            target: solve closed-form members on its effective weights; None uses what they have stored.
            encode: also encode their phrases again with the target's text encoder.
        """
        from erase_plugins.workflow.joint_solution import joint

        groups: list[tuple[dict[str, Any], list[Entry]]] = []
        others: list[Layer] = []
        for entry in self.entries:
            if entry.strength == 0:
                continue
            settings = joint_settings(entry.artifact)
            if settings is None:
                others.append(Layer(entry.artifact, entry.strength, (entry.artifact.name,), False))
                continue
            place = next((members for known, members in groups if known == settings), None)
            if place is None:
                groups.append((settings, [entry]))
            else:
                place.append(entry)
        solved = []
        for _, members in groups:
            strengths = [entry.strength for entry in members]
            parts = [entry.artifact for entry in members]
            alone = len(parts) == 1 and target is None and strengths == [1.0]
            one = parts[0] if alone else joint(parts, strengths, target, encode=encode)
            solved.append(Layer(one, 1.0, tuple(part.name for part in parts), True))
        return (*solved, *others)


def joint_settings(artifact: Artifact) -> dict[str, Any] | None:
    """What decides whether members can be solved jointly; None for those that cannot at all."""
    if artifact.edit.kinds != {"contextmap"}:
        return None  # a solution that was written out by layer, or changed otherwise, is what its maker wanted
    try:
        return statistics_of(artifact.edit, artifact.name).settings
    except ArtifactError:
        return None


@dataclass(frozen=True, eq=False)
class StackArtifact(Artifact):
    """All members as one artifact that still knows them. ``reason`` says why they are no one artifact, if so."""

    stack: Stack = Stack(())
    reason: str = ""

    def save(self, *arguments: Any, **options: Any) -> Artifact:
        if self.reason:
            raise ArtifactError(f"this stack cannot be saved: {self.reason}")
        return super().save(*arguments, **options)


def combined(stack: Stack, layers: Sequence[Layer], target: Any = None) -> StackArtifact:
    """One artifact that does what the layers do.

    Args:
        stack: where they come from.
        layers: from `Stack.layers`.
        target: base model; needed to add context maps to other changes.

    Raises:
        RequestError: nothing in the stack.
        ArtifactError, Unsupported: the changes cannot be added up.
    """
    from erase_plugins.compose import merge

    if not layers:
        raise RequestError("the stack holds nothing; give at least one artifact with a strength that is not 0")
    artifacts = [layer.artifact for layer in layers]
    strengths = [layer.strength for layer in layers]
    if len(layers) > 1:
        one = merge(_written_out(layers, target), strengths, "sum", target)
    elif strengths == [1.0]:
        one = artifacts[0]
    else:
        note = f"strength {strengths[0]:g} is part of the change"
        manifest = replace(artifacts[0].manifest, notes=(*artifacts[0].manifest.notes, note), files=())
        one = Artifact(manifest, artifacts[0].edit.scaled(strengths[0]))
    return StackArtifact(one.manifest, one.edit, one.path, stack)


def _written_out(layers: Sequence[Layer], target: Any) -> list[Artifact]:
    """The artifacts; context maps that stand beside weight changes as changes of the weights that those make."""
    from erase_plugins.artifacts.lowrank import lower, total

    mapped = [layer.artifact.edit.kinds == {"contextmap"} for layer in layers]
    others = [(layer.artifact.edit, layer.strength) for layer, yes in zip(layers, mapped, strict=True) if not yes]
    if target is None or not others or not any(mapped):
        return [layer.artifact for layer in layers]
    changes = total(others).deltas
    refs = {(ref.component, ref.weight): ref for ref in target.readers()}
    projections: dict[str, list[str]] = {}
    for component, name in refs:
        projections.setdefault(component, []).append(name)

    def weight(component: str, name: str) -> Any:
        base = target.base_weight(refs[(component, name)]).float()
        change: Any = changes.get(component, {}).get(name)
        return base if change is None else base + change.dense().to(base.device)

    def columns(component: str, name: str) -> slice:
        found: slice = target.columns(refs[(component, name)])
        return found

    return [
        replace(layer.artifact, edit=lower(layer.artifact.edit, projections, weight, columns))
        if yes
        else layer.artifact
        for layer, yes in zip(layers, mapped, strict=True)
    ]


def stack_of(artifact: Artifact) -> Stack:
    """The stack behind an artifact: its own, or itself as the only member."""
    return artifact.stack if isinstance(artifact, StackArtifact) else Stack((Entry(artifact),))
