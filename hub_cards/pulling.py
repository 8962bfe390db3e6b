"""Fetches published artifacts and collections: only the files that are needed, verified before anybody uses them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, RemoteEntryNotFoundError

from erase_plugins.artifacts.locks import locked
from erase_plugins.artifacts.manifest import FILENAME
from erase_plugins.artifacts.places import COLLECTION, INDEX, MERGED, check_place
from erase_plugins.artifacts.reference import Source, parse, split
from erase_plugins.artifacts.store import file_hash, read_manifest, verify_file
from erase_plugins.compose import merge
from erase_plugins.errors import CorruptArtifact, HubError, RequestError
from erase_plugins.hints import Command, Hint, said_as
from erase_plugins.workflow import pairs
from erase_plugins.workflow.artifacts import keep_copy, load_artifact
from erase_plugins.workflow.collection import Collection, build_collection
from erase_plugins.workflow.usage import STOCK
from hub_cards.errors import reaching
from hub_cards.fetching import Fetched, Tell

_WORKERS = 8
#: seconds to wait for another process that merges the same artifacts
_PATIENCE = 120.0


@said_as("into")
def pull(
    spec: str,
    into: str | Path | None = None,
    *,
    model: Any = None,
    layouts: Sequence[str] = (),
    force: bool = False,
    offline: bool = False,
    progress: Tell | None = None,
) -> Any:
    """A verified artifact from the Hub: its manifest and the one file that is needed to apply and convert it.

    Args:
        spec: "owner/name" or "owner/name@revision" (branch, tag or commit).
        into: copy it into this new folder; None leaves it in the client's cache.
        model: pipeline that it must fit; None skips this check.
        layouts: further layouts to fetch, for other programs ("kohya", "diffusers"); "all" fetches every file.
        force: replace a folder of the same kind, if everything in it was written by this program.
        offline: use the cache only.
        progress: told (bytes that came, bytes of the file) of each file that is downloaded.

    Returns:
        The `Artifact`; its ``path`` is a folder, or a single file for a LoRA repository that has no manifest.

    Raises:
        HubError: not there, not reachable, or the bytes that came are not those that were published.
        BaseMismatch: made for other weights than ``model``.
    """

    target = None if into is None else Path(into)
    if target is not None:
        check_place(target, force)
    repo, revision = split(spec)
    got = Fetched(repo, offline, progress)
    artifact = got.verified(lambda: load_artifact(_download(got, revision, layouts)))
    if model is not None:
        from erase_plugins.runtime.guard import check_base
        from erase_plugins.workflow.models import as_target

        check_base(artifact.manifest, as_target(model), edit=artifact.edit)
    return artifact if target is None else keep_copy(artifact, target, force)


def fetch(spec: str, *, offline: bool = False) -> Path:
    """The local place of a published artifact, in the client's cache; its hashes are checked.

    What does not pass is taken out of the cache again, so that the next try starts afresh. Members of a collection
    are merged if there are several.

    Raises:
        HubError: see `pull`.
    """
    source = parse(spec)
    if source.names:
        return _members(source, offline)
    got = Fetched(source.repo, offline)

    def checked() -> Path:
        place = _download(got, source.revision, ())
        if (place / FILENAME).is_file():
            for item in read_manifest(place / FILENAME).essential:
                verify_file(place, item)
        return place

    return got.verified(checked)


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
    library, wanted = got.verified(lambda: _collection(got, source, asked, layouts))
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


def published_gallery(repo: str) -> pairs.Gallery | None:
    """The pairs on the published page, each picture as it was announced and no larger than one; None if it has none."""
    got = Fetched(repo, offline=False)

    def fetched() -> Any:
        with suppress(EntryNotFoundError):  # also in the cache, where there is no network
            index = got.one(pairs.INDEX, None)
            for name in pairs.parse_index(index.read_text(encoding="utf-8", errors="replace")).names:
                got.one(name, index.parents[1].name)
            return pairs.read_gallery(index.parents[1])

    return got.verified(fetched)


def commit_of(spec: str) -> str:
    """The commit that a reference names now.

    Raises:
        HubError: not there; `HubUnreachable` if nobody answered.
    """

    source = parse(spec)
    with reaching("pull from", source.repo):
        return str(HfApi().model_info(source.repo, revision=source.revision).sha)


def _download(got: Fetched, revision: str | None, layouts: Sequence[str]) -> Path:
    """Folder of the artifact in the cache, or the single file of a repository without manifest."""

    try:
        first = got.one(FILENAME, revision)
    except EntryNotFoundError as error:
        return _plain(got, revision, error)
    commit = first.parent.name  # every further file comes from the same commit, whatever happens to the branch
    for item in read_manifest(first).wanted(layouts):
        got.one(item.name, commit, item)
    return first.parent


def _plain(got: Fetched, revision: str | None, error: Exception) -> Path:
    """The weights of a LoRA repository that has no manifest; those in the cache, if it is only not there.

    Raises:
        HubError: no safetensors file, or several and none has the usual name.
    """

    local = isinstance(error, LocalEntryNotFoundError)
    if local:
        folder = Path(snapshot_download(got.repo, revision=revision, local_files_only=True))
        commit, files = folder.name, [item.name for item in folder.iterdir()]
    else:
        info = HfApi().model_info(got.repo, revision=revision)
        commit, files = str(info.sha), [item.rfilename for item in info.siblings or ()]
    if INDEX in files:
        raise HubError(
            f"{got.repo} is a collection; name artifacts of it: hub:{got.repo}#NAME",
            Command("collection pull", ", or 'erase-plugins collection pull'"),
        )
    if MERGED in files:
        raise HubError(
            f"{got.repo} is a full checkpoint with the change in its weights; ",
            Hint("model", got.repo, before="use it as"),
        )
    names = sorted(name for name in files if name.endswith(".safetensors") and "/" not in name)
    if STOCK in names or len(names) == 1:
        return got.one(STOCK if STOCK in names else names[0], commit)
    if local:
        raise error
    what = f"several: {', '.join(names[:5])}" if names else "none at its root"
    raise HubError(
        f"{got.repo} has no {FILENAME} and not one clear safetensors file ({what}); download the file you want"
    )


def _members(source: Source, offline: bool) -> Path:
    """Folder of one artifact of a collection, or of the merged artifact of several, made once per commit."""

    got = Fetched(source.repo, offline)
    library, wanted = got.verified(lambda: _collection(got, source, source.names, ()))
    if len(wanted) == 1:
        return library.path / wanted[0]
    key = "\n".join([source.repo, *(f"{name} {library.entries[name].sha256}" for name in sorted(wanted))])
    folder = Path(constants.HF_HUB_CACHE).parent / "erase-plugins-merged" / hashlib.sha256(key.encode()).hexdigest()
    with locked(folder, patience=_PATIENCE):
        if not (folder / FILENAME).is_file():
            merge(library.load(sorted(wanted))).save(folder, force=True)
    return folder


def _collection(
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
        for item in read_manifest(manifest).wanted(layouts):
            got.one(f"{name}/{item.name}", commit, item)
        library.load([name])

    with ThreadPoolExecutor(_WORKERS) as pool:
        list(pool.map(member, wanted))
    return library, wanted
