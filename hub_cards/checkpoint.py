"""Publishes a full checkpoint with an artifact fused in, for people who want one file set instead of base and edit."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from erase_plugins.artifacts.strict_json import parse
from erase_plugins.errors import CorruptArtifact, Unsupported
from hub_cards.bundle import PushFile
from hub_cards.how import How
from hub_cards.kept import Kept
from hub_cards.licences import needed
from hub_cards.model_card import merged_card
from hub_cards.pushing import Pushed, publish, ready
from hub_cards.remote import MERGED

#: most bytes of one weight file
SHARD_BYTES = 5_000_000_000
_INDEX = "model_index.json"
#: key of a component's settings that says what it was loaded from
_PLACE = "_name_or_path"
#: what a diffusers folder needs beside its weights; nothing else of it is published
_TEXTS = (".json", ".txt", ".model")
_PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl", ".msgpack", ".h5")


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
            `hub_cards.how.How`.

    Raises:
        BaseMismatch, Unsupported: it cannot be fused into this model, or a component has pickled weights only.
        HubError, PushRefused, NotAllowed: as for `hub_cards.push`.
    """
    from erase_plugins.families.source import find_source
    from erase_plugins.workflow.applying import fuse_checkpoint
    from erase_plugins.workflow.artifacts import load_artifact

    how = How(**options)
    how.check(repo)
    loaded = load_artifact(artifact)
    source = find_source(str(model))
    if source.folder is None:
        raise Unsupported(f"'{source.name}' is no diffusers folder on disk; load it once and save it as one")
    base = loaded.manifest.base
    needed(base, how.license)
    message = f"{', '.join(loaded.manifest.erased)[:60]} erased, full checkpoint"
    bundle = how.bundle(loaded, repo, (), message, record=MERGED)
    if not how.dry_run:
        ready(bundle, parent=how.parent, prune=True)

    def write(kept: Kept) -> str:
        return merged_card(loaded, strength, repo, needed(base, how.license or kept.licence))

    with tempfile.TemporaryDirectory(prefix="erase-merged-") as name:
        folder = Path(name) / "model"
        fuse_checkpoint(loaded, source.folder, folder, strength, any_base=any_base)
        files = [PushFile(path.relative_to(folder).as_posix(), path) for path in chosen_files(folder, shard_bytes)]
        record = _record(loaded, strength, [item.name for item in files])
        bundle = replace(bundle, files=(*files, PushFile(MERGED, record)))
        return publish(bundle, write, how)


def chosen_files(folder: Path, shard_bytes: int) -> list[Path]:
    """The files of a diffusers folder that are published; large weights are split in place.

    Raises:
        Unsupported: a component has no safetensors weights but pickled ones.
    """
    from erase_plugins.runtime.shards import shard

    index = parse((folder / _INDEX).read_text(encoding="utf-8"))
    found = [folder / _INDEX]
    for component in sorted(name for name in index if not name.startswith("_") and (folder / name).is_dir()):
        there = sorted(item for item in (folder / component).iterdir() if item.is_file())
        weights = [item for item in there if item.suffix == ".safetensors"]
        if not weights and any(item.suffix in _PICKLES for item in there):
            raise Unsupported(f"'{component}' has pickled weights only; save the model as safetensors first")
        found += [item for item in there if item.suffix in _TEXTS]
        _forget_places([item for item in there if item.suffix == ".json"])
        for item in weights:
            found += shard(item, shard_bytes)
    return found


def _forget_places(texts: list[Path]) -> None:
    """Takes out of settings where on somebody's disk a component was loaded from; nothing reads it."""
    for path in texts:
        try:
            data = parse(path.read_text(encoding="utf-8"))
        except (CorruptArtifact, ValueError):
            continue  # as it is; diffusers will say what is wrong with it
        place = data.get(_PLACE) if isinstance(data, dict) else None
        if isinstance(place, str) and (PurePosixPath(place).is_absolute() or PureWindowsPath(place).is_absolute()):
            rest = {key: value for key, value in data.items() if key != _PLACE}
            path.write_text(json.dumps(rest, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _record(loaded: Any, strength: float, files: list[str]) -> bytes:
    """What the repository is made of: provenance, and the names of the files that belong to it."""
    manifest = loaded.manifest
    facts = {
        "schema": 1, "name": manifest.name, "method": dict(manifest.method), "erased": list(manifest.erased),
        "base": {key: manifest.base.get(key) for key in ("model", "revision", "family")}, "strength": strength,
        "seed": manifest.seed, "options": dict(manifest.options), "versions": dict(manifest.versions), "files": files,
    }  # fmt: skip
    return (json.dumps(facts, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()
