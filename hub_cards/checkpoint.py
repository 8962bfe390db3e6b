"""Publishes a full checkpoint with an artifact fused in, for people who want one file set instead of base and edit."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from erase_plugins.errors import Unsupported
from erase_plugins.licences import needed
from hub_cards.bundle import How, PushFile
from hub_cards.kept import Kept
from hub_cards.model_card import merged_card
from hub_cards.pushing import Pushed, publish, ready
from hub_cards.remote import MERGED

#: most bytes of one weight file
SHARD_BYTES = 5_000_000_000


def push_merged(
    artifact: Any,
    model: str | Path,
    repo: str,
    *,
    strength: float = 1.0,
    any_base: bool = False,
    shard_bytes: int = SHARD_BYTES,
    **options: Any,
) -> Pushed:
    """Fuses an artifact into a copy of its base model and publishes that as a diffusers repository.

    The copy is written to the disk for temporary files, tensor by tensor, and sent from there; the base is not changed.
    Only safetensors weights and the small texts that diffusers needs are published.

    Args:
        artifact: an `Artifact` or its path.
        model: "pocket" or a diffusers folder.
        repo: "owner/name"; made if it does not exist.
        strength: of the edit.
        any_base: allow a fine-tune of the artifact's base.
        shard_bytes: larger weight files are split.
        options: private, create_pr, revision, message, license, parent, prune, personal, dry_run, show; see
            `hub_cards.bundle.How`.

    Raises:
        BaseMismatch, Unsupported: it cannot be fused into this model, or a component has pickled weights only.
        HubError, PushRefused, NotAllowed: as for `hub_cards.push`.
    """
    from erase_plugins.families.source import find_source
    from erase_plugins.runtime.shards import chosen_files, weight_names
    from erase_plugins.workflow.applying import fuse_checkpoint
    from erase_plugins.workflow.artifacts import load_artifact

    how = How.checked(repo, options)
    loaded = load_artifact(artifact)
    source = find_source(str(model))
    if source.folder is None:
        raise Unsupported(f"'{source.name}' is no diffusers folder on disk; load it once and save it as one")
    base = loaded.manifest.base
    needed(base, how.license)
    message = f"{', '.join(loaded.manifest.erased)[:60]} erased, full checkpoint"
    bundle = how.bundle(loaded, repo, (), message, record=MERGED)
    if not how.dry_run:  # every weight of what the edit touches gets another header, so its file is not as published
        weights = weight_names(source.folder, loaded.edit.deltas, shard_bytes)
        ready(bundle, parent=how.parent, renewed=weights, prune=True, replace_theirs=how.prune)

    def write(kept: Kept) -> str:
        return merged_card(loaded, strength, repo, needed(base, how.license or kept.licence))

    with tempfile.TemporaryDirectory(prefix="erase-plugins-merged-") as name:
        folder = Path(name) / "model"
        fuse_checkpoint(loaded, source.folder, folder, strength, any_base=any_base)
        files = [PushFile(path.relative_to(folder).as_posix(), path) for path in chosen_files(folder, shard_bytes)]
        record = _record(loaded, strength, [item.name for item in files])
        bundle = replace(bundle, files=(*files, PushFile(MERGED, record)))
        return publish(bundle, write, how)


def _record(loaded: Any, strength: float, files: list[str]) -> bytes:
    """What the repository is made of: provenance, and the names of the files that belong to it."""
    manifest = loaded.manifest
    facts = {
        "schema": 1, "name": manifest.name, "method": dict(manifest.method), "erased": list(manifest.erased),
        "base": {key: manifest.base.get(key) for key in ("model", "revision", "family")}, "strength": strength,
        "seed": manifest.seed, "options": dict(manifest.options), "versions": dict(manifest.versions), "files": files,
    }  # fmt: skip
    return (json.dumps(facts, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()
