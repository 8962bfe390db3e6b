"""Publishes what is no single artifact: a collection, a full checkpoint, a head with a certificate, a Space."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from erase_plugins.artifacts.places import INDEX, MERGED
from erase_plugins.errors import Unsupported
from erase_plugins.families.source import find_source
from erase_plugins.licences import needed
from erase_plugins.readme import CARD
from erase_plugins.records.certificate import CERTIFICATE
from erase_plugins.records.release import Release
from erase_plugins.runtime.shards import weight_names
from erase_plugins.workflow import usage
from erase_plugins.workflow.artifacts import load_artifact
from erase_plugins.workflow.collection import Collection
from hub_cards.bundle import How, PushFile, artifact_files, of
from hub_cards.kept import Kept
from hub_cards.model_card import collection_card, head_card, merged_card
from hub_cards.pushing import publish, ready, token_needed
from hub_cards.sending import Pushed

#: most bytes of one weight file
SHARD_BYTES = 5_000_000_000


def push_collection(folder: str | Path | Collection, repo: str, **options: Any) -> Pushed:
    """Publishes a collection folder: the index, all artifacts it lists, and a card; nothing else that lies there.

    Files that are there already are not sent again. A push that lacks artifacts of the published index is refused
    unless ``prune`` takes them off. Very many new files go in a few commits; the last one holds the index, which makes
    them count.

    Args:
        folder: the collection or its folder; every artifact must be there with all its files.
        repo: "owner/name"; made if it does not exist.
        options: private, create_pr, revision, message, license, parent, prune (also artifacts that this one lacks),
            personal, requirement, dry_run, show; see `hub_cards.bundle.How`.

    Raises:
        HubError: not reachable or refused; the published collection is as before.
        PushRefused, NotAllowed: as for `hub_cards.push`.
    """
    how = How.checked(repo, options)
    library = folder if isinstance(folder, Collection) else Collection.open(folder)
    token_needed(how.dry_run)
    files = [PushFile(INDEX, library.path / INDEX)]
    concepts: list[Any] = []
    lora = True
    for name in library.names():
        (artifact,) = library.load([name])
        concepts += artifact.manifest.concepts
        lora = lora and usage.has_lora(artifact.manifest)
        files += [replace(item, name=f"{name}/{item.name}") for item in artifact_files(artifact)]

    def write(kept: Kept) -> str:
        licence = needed(library.base, how.license or kept.licence)
        return collection_card(
            library, concepts, repo=repo, licence=licence, lora=lora, requirement=how.requirement or kept.requirement
        )  # fmt: skip

    bundle = how.bundle(library, repo, files, f"{len(library.entries)} erased concepts", record=INDEX)
    return publish(bundle, write, how)


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
    from erase_plugins.workflow.applying import fused_files

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
        ready(bundle, how, renewed=weights)

    def write(kept: Kept) -> str:
        return merged_card(loaded, strength, repo, needed(base, how.license or kept.licence))

    with tempfile.TemporaryDirectory(prefix="erase-plugins-merged-") as name:
        files = fused_files(loaded, source.folder, Path(name) / "model", strength, shard_bytes, any_base=any_base)
        return publish(replace(bundle, files=tuple(of(files))), write, how)


def push_head(folder: str | Path, repo: str, **options: Any) -> Pushed:
    """Publishes the release of a head. It was entered in the ledger when it was written; the place is added to it.

    Args:
        folder: what 'erase-plugins records release' wrote.
        repo: "owner/name"; made if it does not exist.
        options: private, create_pr, revision, message, license, parent, prune, personal, requirement, dry_run, show;
            see `hub_cards.bundle.How`.

    Raises:
        PushRefused: no valid certificate, records were deleted since, or as for `hub_cards.push`.
    """
    how = How.checked(repo, options)
    token_needed(how.dry_run)
    release = Release(folder)
    files = of({name: release.path / name for name in release.names})

    def write(kept: Kept) -> str:
        licence = needed({}, how.license or kept.licence, "the licence of a head is yours to choose")
        return head_card(release, licence, how.requirement or kept.requirement)

    message = f"release {release.certificate['releases']} of a head with a certificate"
    return publish(how.bundle(release, repo, files, message, record=CERTIFICATE), write, how)


def push_space(artifact: Any, repo: str, files: Mapping[str, bytes | Path], **options: Any) -> Pushed:
    """Publishes the files as Space ``repo`` in one commit; other files of the Space are left alone.

    Args:
        artifact: the `Artifact` that it is about; plugins may ask for it before the push.
        repo: "owner/name".
        files: from `erase_plugins.page.space.space_files`.
        options: private, prune (also pairs that are about other weights), personal, dry_run, show; see
            `hub_cards.bundle.How`.

    Raises:
        HubError, PushRefused, NotAllowed: as for `hub_cards.push`.
    """
    how = How.checked(repo, options)
    text = PushFile(CARD, files[CARD]).open().read().decode()
    listed = of({name: source for name, source in files.items() if name != CARD})
    message = f"Space for {', '.join(artifact.manifest.erased)[:60]} erased"
    bundle = how.bundle(artifact, repo, listed, message, repo_type="space")
    return publish(bundle, lambda _: text, how)
