"""What two artifacts both do. Where both are in force it acts twice, although neither is a copy of the other."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from erase_plugins.artifacts.edit import AddOn
from erase_plugins.artifacts.gated import GATE, concepts_of, is_gated, without
from erase_plugins.artifacts.lineage import holds, parts
from erase_plugins.artifacts.serialize import edit_to_tensors
from erase_plugins.artifacts.solved import statistics_of
from erase_plugins.artifacts.tensors import tensor_hash

if TYPE_CHECKING:
    from erase_plugins.artifacts.artifact import Artifact
    from erase_plugins.artifacts.edit import Edit
    from erase_plugins.artifacts.manifest import Manifest

#: in ``extra`` of a manifest: concept -> mark
MEMBERS = "members"


def in_both(first: Artifact, second: Artifact) -> tuple[str, ...]:
    """What two artifacts both do, in words; empty where nothing is known to be the same.

    Closed forms tell by their members, or by the marks of these in the header of a file that holds no statistics; gated
    artifacts tell by their memories, sums by the hashes of what they were made of.
    The same concept erased in two ways is no such case: people put one method on top of another.
    """
    named = dict.fromkeys((*_members(first, second), *_memories(first.edit, second.edit)))
    return (*(f"'{name}'" for name in named), *_summands(first, second))


def member_marks(artifact: Artifact) -> dict[str, str]:
    """Concept -> mark of how a closed form erases it; of a file without statistics those that its header tells."""
    if _statistics(artifact.edit) is not None:
        return _marks(artifact.edit)
    found = artifact.manifest.extra.get(MEMBERS)
    return dict(found) if isinstance(found, Mapping) else {}


def _marks(edit: Edit) -> dict[str, str]:
    facts: Any = _statistics(edit)
    settings = [facts.get(name) for name in ("width", "keep_weight", "solver", "block")]
    return {
        str(item["concept"]): sha256(
            json.dumps([settings, item["weight"], item["facts"]], sort_keys=True).encode()
        ).hexdigest()
        for item in facts["members"]
    }


def with_marks(manifest: Manifest, edit: Edit) -> Manifest:
    """The manifest for files that do not hold the statistics of an edit: it says which members these told."""
    return manifest if _statistics(edit) is None else replace(manifest, extra={**manifest.extra, MEMBERS: _marks(edit)})


def _members(first: Artifact, second: Artifact) -> tuple[str, ...]:
    if None in (_statistics(first.edit), _statistics(second.edit)):
        mine, theirs = member_marks(first), member_marks(second)
        return tuple(name for name, mark in mine.items() if theirs.get(name) == mark)
    if not _named(first.edit) & _named(second.edit):
        return ()
    one, other = (statistics_of(item.edit, item.name) for item in (first, second))
    if one.settings != other.settings:
        return ()
    pairs = ((name, member, other.members.get(name)) for name, member in one.members.items())
    return tuple(name for name, left, right in pairs if right is not None and left.same(right))


def _named(edit: Edit) -> set[str]:
    """Members of a closed form, without its tensors being read."""
    facts = _statistics(edit)
    return set() if facts is None else {str(item["concept"]) for item in facts["members"]}


def _statistics(edit: Edit) -> dict[str, Any] | None:
    facts = edit.meta.get("statistics")
    return facts if isinstance(facts, dict) else None


def _memories(first: Edit, second: Edit) -> tuple[str, ...]:
    names = _gates(first) & _gates(second)
    if not (names and is_gated(first) and is_gated(second)):
        return ()
    return tuple(name for name in sorted(names) if _memory(first, name) == _memory(second, name))


def _gates(edit: Edit) -> set[str]:
    """Concepts of all gates, without a look at what lies behind them."""
    found = [group[GATE] for group in edit.deltas.values() if GATE in group]
    return {str(text) for gate in found if isinstance(gate, AddOn) for text in gate.config.get("concepts", ())}


def _memory(edit: Edit, name: str) -> str:
    """Hash of what stands behind the gate of one concept, at whatever strength."""
    others = [text for text in concepts_of(edit) if text != name]
    found = edit_to_tensors(without(edit, others) if others else edit)[0]
    return tensor_hash({key: part for key, part in found.items() if not key.endswith("up")})


def _summands(first: Artifact, second: Artifact) -> tuple[str, ...]:
    if not (parts(first.manifest) or parts(second.manifest)) or not set(holds(first)) & set(holds(second)):
        return ()
    return (next((f"'{item.name}'" for item in (first, second) if not parts(item.manifest)), "a part"),)
