"""Erasures that stand behind each other in a graph, solved jointly as if one node had been asked for all of them.

A MODEL remembers what erase nodes put on it. The next one takes their joint solution off, adds its own members and
solves anew, so that neighbours are disturbed as little as by one request. Added on top, every node would disturb them
again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from erase_plugins.stack import Entry, Stack, joint_settings

from . import row_maps, stacking
from .solved import state_of

#: attachment of a MODEL that holds its `Chain`
KEY = "erase_plugins_chain"


@dataclass(frozen=True, eq=False)
class Chain:
    """What erase nodes put on a MODEL.

    Attributes:
        joint: members that are solved jointly.
        others: members that hang on the model as they are.
        maps: names of the maps that carry the joint solution, see `row_maps.names`.
        text: state of the CLIP that the members' phrases were encoded with.
        artifact: all of it as one.
        joins: also nodes of version 0.1 behind it solve jointly. Behind each other those add up, as they always did, so
            that old workflows draw the same pictures.
    """

    joint: tuple[Entry, ...]
    others: tuple[Entry, ...]
    maps: frozenset[str]
    text: tuple[Any, ...]
    artifact: Any
    joins: bool = True


@dataclass(frozen=True)
class Chained:
    """Clones with everything, all erasures of the chain as one artifact, the MODEL without them, and what to tell."""

    model: Any
    clip: Any
    artifact: Any
    bare: Any
    lines: tuple[str, ...]


def chain_of(model: Any) -> tuple[Chain | None, str]:
    """What erase nodes put on a MODEL, and why it cannot be solved again although there is something (else empty)."""
    found = getattr(model, "get_attachment", lambda _key: None)(KEY)
    if found is None or found.maps <= set(row_maps.names(model)):
        return found, ""
    return None, "a merge behind an earlier erase node closed its erasure; what is erased here is added on top of it"


def put_on(
    model: Any,
    clip: Any,
    entries: tuple[Entry, ...],
    *,
    any_base: bool = False,
    effective: bool = True,
    fresh: bool = False,
) -> Chained:
    """Clones of MODEL and CLIP under more erasures, solved jointly with those of nodes in front.

    Args:
        model, clip: stay as they are; without entries they are given back.
        entries: new members. A concept that is erased already is erased as they say.
        any_base, effective: as in `stacking.put_on`.
        fresh: their phrases were encoded with this very CLIP.

    Raises:
        BaseMismatch, ArtifactError, Unsupported, RequestError: nothing was changed.
    """
    chain, problem = chain_of(model)
    bare = model if chain is None else row_maps.without(model, chain.maps)
    if not entries:
        artifact = stacking.nothing(model, clip) if chain is None else chain.artifact
        return Chained(model, clip, artifact, bare, ("nothing is switched on; the model goes through as it is",))
    earlier, replaced = _less(() if chain is None else chain.joint, entries)
    hung = () if chain is None else chain.others
    named = _named(entries, {entry.artifact.name for entry in (*earlier, *hung)})
    anew = chain is not None and chain.text != state_of(None, clip)
    encode = anew if fresh else None
    done = stacking.put_on(
        bare, clip, Stack((*earlier, *named)), hung=hung, any_base=any_base, effective=effective,
        encode=encode,
    )  # fmt: skip
    erased = _remembered(bare, done.model, clip, (*earlier, *named), hung, done.artifact, joins=True)
    lines = [f"{', '.join(replaced)}: as this node says, not as an earlier one did"] if replaced else []
    if earlier:
        concepts = [name for entry in earlier for name in entry.artifact.manifest.erased]
        lines.append(f"together with earlier erase nodes: {', '.join(concepts)}")
    return Chained(erased, done.clip, done.artifact, bare, (*lines, *done.lines, *([problem] if problem else [])))


def over(
    model: Any, clip: Any, stack: Stack, *, strength: float = 1.0, question: tuple[Any, ...] | None = None, **how: Any
) -> stacking.Stacked:
    """What `stacking.put_on` gives; jointly with an Erase node in front where there is one.

    Args:
        model, clip, stack, strength, question: as there.
        how: ``any_base`` and ``effective``, as there.
    """
    entries = tuple(
        Entry(entry.artifact, strength * entry.strength) for entry in stack.entries if strength * entry.strength != 0
    )
    chain, _ = chain_of(model)
    if chain is not None and chain.joins and entries:
        found = put_on(model, clip, entries, **how)
        return stacking.Stacked(found.model, found.clip, found.artifact, found.lines)
    done = stacking.put_on(model, clip, stack, strength=strength, question=question, **how)
    return replace(done, model=added(model, done.model, clip, entries, done.artifact))


def added(before: Any, after: Any, clip: Any, entries: tuple[Entry, ...], artifact: Any) -> Any:
    """The MODEL ``after`` a node of version 0.1, remembering what that added, for an Erase node behind it.

    Args:
        before: the MODEL in front of that node.
        after: its clone with the erasures; given back if it is ``before``.
        clip: that encoded the phrases.
        entries: what was added, at the strengths in force.
        artifact: all of it as one.
    """
    chain, _ = chain_of(before)
    if after is before:
        return after
    if chain is None:
        return _remembered(before, after, clip, entries, (), artifact, joins=False)
    earlier, _ = _less(chain.joint, entries)
    named = _named(entries, {entry.artifact.name for entry in (*earlier, *chain.others)})
    bare = row_maps.without(before, chain.maps)
    return _remembered(bare, after, clip, (*earlier, *named), chain.others, artifact, joins=False)


def _remembered(
    bare: Any, erased: Any, clip: Any, entries: tuple[Entry, ...], hung: tuple[Entry, ...], artifact: Any, joins: bool
) -> Any:
    """A MODEL that knows what erases on it."""
    kept = erased.clone() if erased is bare else erased
    joint = tuple(entry for entry in entries if joint_settings(entry.artifact) is not None)
    others = tuple(entry for entry in entries if entry not in joint)
    maps = frozenset(row_maps.names(kept)) - set(row_maps.names(bare))
    kept.set_attachments(KEY, Chain(joint, (*hung, *others), maps, state_of(None, clip), artifact, joins))
    return kept


def _less(earlier: tuple[Entry, ...], entries: tuple[Entry, ...]) -> tuple[tuple[Entry, ...], list[str]]:
    """Earlier members without the concepts that the new ones erase, and those concepts."""
    wanted = {name.casefold() for entry in entries for name in entry.artifact.manifest.erased}
    again = [name for entry in earlier for name in entry.artifact.manifest.erased if name.casefold() in wanted]
    return (Stack(earlier).without(again).entries if again else earlier), again


def _named(entries: tuple[Entry, ...], taken: set[str]) -> tuple[Entry, ...]:
    """The same members under names that a stack may hold beside others."""
    found = []
    for entry in entries:
        name, number = entry.artifact.name, 2
        while name in taken:
            name, number = f"{entry.artifact.name}_{number}", number + 1
        taken.add(name)
        same = name == entry.artifact.name
        found.append(entry if same else Entry(entry.artifact.with_manifest(name=name), entry.strength))
    return tuple(found)
