"""Erasures that stand behind each other in a graph, solved jointly as if one node had been asked for all of them.

A MODEL remembers what erase nodes put on it. The next one takes their joint solution off, adds its own members and
solves anew, so that neighbours are disturbed as little as by one request. Added on top, every node would disturb them
again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from erase_plugins.stack import Entry, Stack, StackArtifact, joint_settings

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
    """

    joint: tuple[Entry, ...]
    others: tuple[Entry, ...]
    maps: frozenset[str]
    text: tuple[Any, ...]
    artifact: StackArtifact


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


def put_on(model: Any, clip: Any, entries: tuple[Entry, ...]) -> Chained:
    """Clones of MODEL and CLIP under more erasures, solved jointly with those of erase nodes in front.

    Args:
        model, clip: stay as they are; without entries they are given back.
        entries: new members. A concept that is erased already is erased as they say.

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
    text = state_of(None, clip)
    done = stacking.put_on(
        bare, clip, Stack((*earlier, *named)), hung=hung, encode=chain is not None and chain.text != text
    )
    erased = done.model.clone() if done.model is model else done.model
    kept = [entry for entry in (*earlier, *named) if joint_settings(entry.artifact) is not None]
    others = [entry for entry in named if entry not in kept]
    erased.set_attachments(
        KEY,
        Chain(
            tuple(kept), (*hung, *others), frozenset(row_maps.names(erased)) - set(row_maps.names(bare)), text,
            done.artifact,
        ),
    )  # fmt: skip
    lines = [f"{', '.join(replaced)}: as this node says, not as an earlier one did"] if replaced else []
    if earlier:
        concepts = [name for entry in earlier for name in entry.artifact.manifest.erased]
        lines.append(f"together with earlier erase nodes: {', '.join(concepts)}")
    return Chained(erased, done.clip, done.artifact, bare, (*lines, *done.lines, *([problem] if problem else [])))


def _less(earlier: tuple[Entry, ...], entries: tuple[Entry, ...]) -> tuple[tuple[Entry, ...], list[str]]:
    """Earlier members without the concepts that the new ones erase, and those concepts."""
    wanted = {name.casefold() for entry in entries for name in entry.artifact.manifest.erased}
    again = [
        name for entry in earlier for name in entry.artifact.manifest.erased if name.casefold() in wanted
    ]  # fmt: skip
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
