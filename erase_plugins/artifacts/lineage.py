"""Artifacts that go on where others ended: which ones they need, and whether those are there.

Deltas add up, so a chain keeps one file per task. What was trained on top of others means something only together with
them: the manifest's ``extra["chain"]`` holds ``task`` (from 0), ``needs``, the hashes of all edits below it, and, of a
sum of several, ``holds``, theirs. Who reads a LoRA file without its manifest is told nothing of that.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from erase_plugins.errors import CorruptArtifact

if TYPE_CHECKING:
    from erase_plugins.artifacts.artifact import Artifact
    from erase_plugins.artifacts.edit import Edit
    from erase_plugins.artifacts.manifest import Manifest

CHAIN = "chain"


def edit_hash(edit: Edit) -> str:
    """SHA-256 of everything that an edit changes."""
    from erase_plugins.artifacts.serialize import edit_to_tensors
    from erase_plugins.artifacts.tensors import tensor_hash

    return tensor_hash(edit_to_tensors(edit)[0])


def marks(artifacts: Iterable[Artifact]) -> tuple[str, ...]:
    """What tells artifacts from others of the same name: two hashes of each, of its changes and of its run.

    Another layout of an artifact holds its changes in another form; the run is the same then.

    Args:
        artifacts: what else than an artifact is among them leaves no mark.
    """
    from erase_plugins.artifacts.artifact import Artifact

    mine = [item for item in artifacts if isinstance(item, Artifact)]
    return tuple(mark for item in mine for mark in (edit_hash(item.edit), _run_mark(item.manifest)))


def bears(artifact: Artifact, found: Sequence[str]) -> bool:
    """Whether one of these marks is the artifact's; its weights are read only if the run's is not among them."""
    return _run_mark(artifact.manifest) in found or edit_hash(artifact.edit) in found


def _run_mark(manifest: Manifest) -> str:
    told = manifest.to_dict()
    run = {name: told[name] for name in ("method", "options", "concepts", "seed", "rank", "base")}
    return sha256(json.dumps(run, sort_keys=True).encode()).hexdigest()


def needs(manifest: Manifest) -> tuple[str, ...]:
    """Hashes of the edits below an artifact, from the first."""
    return _hashes(manifest, "needs")


def task_of(manifest: Manifest) -> int:
    """Number of the task in its chain; 0 for what stands alone.

    Raises:
        CorruptArtifact: no number.
    """
    task = _chain(manifest).get("task", 0)
    if type(task) is not int or not 0 <= task <= 1_000_000:
        raise CorruptArtifact("the manifest's chain has no usable task number")
    return int(task)


def holds(artifact: Artifact) -> tuple[str, ...]:
    """Hashes of the edits that an artifact consists of."""
    return parts(artifact.manifest) or (edit_hash(artifact.edit),)


def parts(manifest: Manifest) -> tuple[str, ...]:
    """Hashes of the edits that a sum was made of; empty for what is none."""
    return _hashes(manifest, "holds")


def missing(artifact: Artifact, others: Iterable[Artifact]) -> tuple[str, ...]:
    """Hashes of the edits that an artifact needs and that none of the others holds."""
    wanted = needs(artifact.manifest)
    if not wanted:
        return ()
    there = {item for other in others for item in holds(other)}
    return tuple(item for item in wanted if item not in there)


def follows(below: Sequence[Artifact]) -> dict[str, Any]:
    """``extra["chain"]`` of an artifact on top of these."""
    task = 1 + max(task_of(item.manifest) for item in below) if below else 0
    return {"task": task, "needs": [part for item in below for part in holds(item)]}


def together(artifacts: Sequence[Artifact]) -> tuple[dict[str, Any] | None, tuple[str, ...]]:
    """``extra["chain"]`` of the sum of several, and the names of those whose own parents are not among them.

    Gated memories stay apart in a sum and can be taken out of it again, so there is none of those.
    """
    from erase_plugins.artifacts.gated import is_gated

    if all(CHAIN not in item.manifest.extra and is_gated(item.edit) for item in artifacts):
        return None, ()
    orphans = [item for item in artifacts if missing(item, artifacts)]
    inside = [part for item in artifacts for part in holds(item)]
    return (
        {"task": max(task_of(item.manifest) for item in artifacts), "needs": [], "holds": inside},
        tuple(item.name for item in orphans),
    )


def _chain(manifest: Manifest) -> Mapping[str, Any]:
    found = manifest.extra.get(CHAIN, {})
    if not isinstance(found, Mapping):
        raise CorruptArtifact("the manifest's chain is no object")
    return found


def _hashes(manifest: Manifest, name: str) -> tuple[str, ...]:
    found = _chain(manifest).get(name, ())
    if not isinstance(found, list | tuple) or not all(isinstance(item, str) for item in found):
        raise CorruptArtifact(f"the manifest's chain has no usable '{name}'")
    return tuple(found)
