"""Artifacts in force on a pipeline, or fused into a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from erase_plugins.artifacts.artifact import Artifact
from erase_plugins.artifacts.marks import read_key
from erase_plugins.artifacts.places import MERGED
from erase_plugins.errors import RequestError
from erase_plugins.families.hosted import HostedModel
from erase_plugins.families.model import Model
from erase_plugins.given import checked
from erase_plugins.runtime import checkpoint_file
from erase_plugins.runtime.applied import Applied, applied
from erase_plugins.runtime.apply import all_of, apply_to, check_settings
from erase_plugins.runtime.checkpoint_file import Fused
from erase_plugins.runtime.guard import check_compiled
from erase_plugins.runtime.patcher import LOCK
from erase_plugins.runtime.shards import chosen_files
from erase_plugins.workflow.artifacts import family_of, load_artifact
from erase_plugins.workflow.found import FoundModel
from erase_plugins.workflow.models import as_target

__all__ = ["Applied", "applied", "apply", "apply_all", "fuse_checkpoint"]

#: facts of stored statistics that agree where artifacts are solved jointly (`artifacts.statistics.Statistics.settings`)
_SETTINGS = ("width", "keep_weight", "solver", "block")


@checked
def apply(
    pipe: Any,
    artifact: Artifact | str | Path,
    strength: float = 1.0,
    *,
    any_base: bool = False,
    mode: str = "weights",
    guard_key: str | Path | None = None,
) -> Applied:
    """Applies an artifact to a pipeline. All or nothing: on any error the pipeline is as before.

    Args:
        pipe: diffusers pipeline, a model's own module, or its `Model`.
        artifact: an `Artifact` or its path.
        strength: 1 is the evaluated edit, 0 bit-exact identity; negative values strengthen the concept.
        any_base: allow other weights of the same architecture (a fine-tune).
        mode: "weights", or "context" to map the text embeddings instead (context-map artifacts, quantised models).
        guard_key: file with the key of a guard whose keywords are HMACs.

    Returns:
        The handle that undoes it.

    Raises:
        RequestError: a strength or mode that does not exist, or the name of a model that nobody holds.
        BaseMismatch, Unsupported, CorruptArtifact, AlreadyApplied, PipelineChanged: nothing was changed.
    """
    check_settings(strength, mode)
    loaded = load_artifact(artifact)
    key = b"" if guard_key is None else read_key(Path(guard_key))
    with LOCK:
        check_compiled(pipe.host if isinstance(pipe, Model) else pipe)
        target = held_target(pipe)
        before = applied(target.host)
        handle = apply_to(target, loaded, strength, any_base=any_base, mode=mode, guard_key=key)
        handle.warnings += _apart(loaded, before)
        return handle


def held_target(pipe: Any) -> HostedModel:
    """The model that a caller holds; what is loaded here would be gone, with its edit, when the call returns."""
    if isinstance(pipe, str | Path | FoundModel):
        name = pipe.info.model if isinstance(pipe, FoundModel) else str(pipe)
        raise RequestError(
            f"'{name}' is the name of a model, and an artifact is applied to a loaded one: pipe = "
            f"erase_plugins.load('{name}'), then apply(pipe, artifact)"
        )
    target: HostedModel = as_target(pipe)
    return target


def _apart(artifact: Artifact, before: Sequence[Applied]) -> tuple[str, ...]:
    """That closed forms are added up here which could have been solved jointly."""
    settings = _joint(artifact)
    other = next((item.artifact.name for item in before if settings and _joint(item.artifact) == settings), None)
    if other is None:
        return ()
    return (
        f"it is added to '{other}', each solved without the other, which moves more of the rest than a joint "
        "solution: merge() both, or put them on as one Stack",
    )


def _joint(artifact: Artifact) -> Any:
    """What is equal for artifacts that `erase_plugins.stack` solves jointly; None for others."""
    facts = artifact.edit.meta.get("statistics") if artifact.edit.kinds == {"contextmap"} else None
    return [facts.get(name) for name in _SETTINGS] if isinstance(facts, dict) else None


def apply_all(
    pipe: Any, artifacts: Sequence[Artifact | str | Path], strength: float = 1.0, **options: Any
) -> list[Applied]:
    """Applies several artifacts; changes add up, and handles warn of what could be solved jointly. All or nothing."""
    with LOCK:
        check_compiled(pipe.host if isinstance(pipe, Model) else pipe)
        target = held_target(pipe)
        with target.held():
            return all_of(partial(apply, target, item, strength, **options) for item in artifacts)


def fuse_checkpoint(
    artifact: Artifact | str | Path, source: str | Path, out: str | Path, strength: float = 1.0, **options: Any
) -> Fused:
    """A new full checkpoint with an artifact in its weights; see `runtime.checkpoint_file.fuse_checkpoint`."""
    loaded = load_artifact(artifact)
    return checkpoint_file.fuse_checkpoint(loaded, family_of(loaded), source, out, strength, **options)


def fused_files(
    artifact: Artifact, source: Path, folder: Path, strength: float, shard_bytes: int, **options: Any
) -> dict[str, bytes | Path]:
    """A full checkpoint of a diffusers folder as it is published: its files by name, with a record of what made it.

    Args:
        artifact: what is fused in.
        source: the base.
        folder: a new one, where the files are written.
        strength: of the edit.
        shard_bytes: larger weight files are split.
        options: any_base.

    Raises:
        BaseMismatch, Unsupported: it cannot be fused into this model, or a component has pickled weights only.
    """
    fuse_checkpoint(artifact, source, folder, strength, **options)
    files = {path.relative_to(folder).as_posix(): path for path in chosen_files(folder, shard_bytes)}
    return {**files, MERGED: _record(artifact, strength, list(files))}


def _record(loaded: Artifact, strength: float, files: list[str]) -> bytes:
    """What the repository is made of: provenance, and the names of the files that belong to it."""
    manifest = loaded.manifest
    facts = {
        "schema": 1, "name": manifest.name, "method": dict(manifest.method), "erased": list(manifest.erased),
        "base": {key: manifest.base.get(key) for key in ("model", "revision", "family")}, "strength": strength,
        "seed": manifest.seed, "options": dict(manifest.options), "versions": dict(manifest.versions), "files": files,
    }  # fmt: skip
    return (json.dumps(facts, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()
