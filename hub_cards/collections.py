"""Collections on the Hub: pushed in a handful of commits, pulled in part, merged on this machine."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from huggingface_hub import constants
from huggingface_hub.errors import RemoteEntryNotFoundError

from erase_plugins.artifacts.locks import locked
from erase_plugins.artifacts.manifest import FILENAME
from erase_plugins.artifacts.places import COLLECTION, INDEX, check_place
from erase_plugins.artifacts.store import file_hash, read_manifest
from erase_plugins.compose import merge
from erase_plugins.errors import CorruptArtifact, HubError, RequestError
from erase_plugins.hints import said_as
from erase_plugins.licences import needed
from erase_plugins.workflow.collection import Collection, build_collection
from hub_cards.bundle import How, PushFile, artifact_files
from hub_cards.fetching import Fetched, wanted_files
from hub_cards.kept import Kept
from hub_cards.model_card import collection_card, has_lora
from hub_cards.pushing import Pushed, publish, token_needed
from hub_cards.references import Source, parse

_WORKERS = 8
#: seconds to wait for another process that merges the same artifacts
_PATIENCE = 120.0


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
        lora = lora and has_lora(artifact.manifest)
        files += [replace(item, name=f"{name}/{item.name}") for item in artifact_files(artifact)]

    def write(kept: Kept) -> str:
        licence = needed(library.base, how.license or kept.licence)
        return collection_card(
            library, concepts, repo=repo, licence=licence, lora=lora, requirement=how.requirement or kept.requirement
        )  # fmt: skip

    bundle = how.bundle(library, repo, files, f"{len(library.entries)} erased concepts", record=INDEX)
    return publish(bundle, write, how)


@said_as("into")
def pull_collection(
    spec: str,
    names: str | Iterable[str] | None = None,
    into: str | Path | None = None,
    *,
    layouts: Sequence[str] = (),
    force: bool = False,
    offline: bool = False,
) -> Collection:
    """The index of a published collection and the artifacts that are asked for, verified.

    Args:
        spec: "owner/name", "owner/name@revision", "owner/name@revision#name,name".
        names: names, or texts of erased concepts; none fetches the index only.
        into: collection folder to make or to add to; None leaves everything in the client's cache.
        layouts: further layouts to fetch, for other programs; "all" fetches every file.
        force: replace artifacts of the same name in ``into``.
        offline: use the cache only.

    Returns:
        The `Collection`; ``load(names)`` gives the artifacts, ``erase_plugins.merge`` makes one of them.

    Raises:
        HubError: not there, not a collection, not reachable, or damaged.
        UnknownName: a name is not in the collection; suggests close ones.
    """
    source = parse(spec)
    asked = [names] if isinstance(names, str) else list(names or source.names)
    if into is not None and not (Path(into) / INDEX).is_file():
        check_place(Path(into), force, COLLECTION)
    got = Fetched(source.repo, offline)
    library, wanted = got.verified(lambda: _fetch(got, source, asked, layouts))
    if into is None or not wanted:
        return library
    members, place = {name: library.path / name for name in wanted}, Path(into)
    there = (place / INDEX).is_file()
    return Collection.open(place).append(members, force) if there else build_collection(members, place, force)


def merged(
    spec: str,
    names: str | Iterable[str] | None = None,
    *,
    target: Any = None,
    mode: str = "auto",
    offline: bool = False,
) -> Any:
    """One artifact, in memory, from artifacts of a published collection: only those are fetched.

    Args:
        spec: as for `pull_collection`.
        names: names, or texts of erased concepts.
        target: base model, where changes of different kinds have to be summed.
        mode: as for `erase_plugins.merge`.
        offline: use the cache only.

    Raises:
        RequestError: no name was given.
        HubError, UnknownName, ArtifactError: as for `pull_collection` and `erase_plugins.merge`.
    """

    asked = [names] if isinstance(names, str) else list(names or parse(spec).names)
    if not asked:
        raise RequestError("name the artifacts to merge, or texts of erased concepts")
    loaded = pull_collection(spec, asked, offline=offline).load(asked)
    return loaded[0] if len(loaded) == 1 else merge(loaded, mode=mode, target=target)


def fetch_members(source: Source, offline: bool) -> Path:
    """Folder of one artifact of a collection, or of the merged artifact of several, made once per commit."""

    got = Fetched(source.repo, offline)
    library, wanted = got.verified(lambda: _fetch(got, source, source.names, ()))
    if len(wanted) == 1:
        return library.path / wanted[0]
    key = "\n".join([source.repo, *(f"{name} {library.entries[name].sha256}" for name in sorted(wanted))])
    folder = Path(constants.HF_HUB_CACHE).parent / "erase-plugins-merged" / hashlib.sha256(key.encode()).hexdigest()
    with locked(folder, patience=_PATIENCE):
        if not (folder / FILENAME).is_file():
            merge(library.load(sorted(wanted))).save(folder, force=True)
    return folder


def _fetch(
    got: Fetched, source: Source, names: Iterable[str], layouts: Sequence[str]
) -> tuple[Collection, tuple[str, ...]]:
    """The verified index, and the verified artifacts, all from one commit."""

    try:
        index = got.one(INDEX, source.revision)
    except RemoteEntryNotFoundError:
        raise HubError(f"{source.repo} has no {INDEX}; it is not a collection, use 'erase-plugins pull'") from None
    library, commit = Collection.open(index.parent), index.parent.name
    wanted = library.find(names)

    def member(name: str) -> None:
        manifest = got.one(f"{name}/{FILENAME}", commit)
        if file_hash(manifest) != library.entries[name].sha256:
            raise CorruptArtifact(f"the manifest of {name} is not the one that the index lists")
        for item in wanted_files(read_manifest(manifest), layouts):
            got.one(f"{name}/{item.name}", commit, item)
        library.load([name])

    with ThreadPoolExecutor(_WORKERS) as pool:
        list(pool.map(member, wanted))
    return library, wanted
