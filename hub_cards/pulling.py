"""Fetches published artifacts: only the files that are needed, verified before anybody uses them."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

from erase_plugins.artifacts.atomic import atomic_folder
from erase_plugins.artifacts.manifest import FILENAME
from erase_plugins.artifacts.places import INDEX, check_place
from erase_plugins.artifacts.store import read_manifest, verify_file
from erase_plugins.errors import HubError
from erase_plugins.hints import Command, Hint, said_as
from erase_plugins.manager import get_manager
from erase_plugins.workflow.artifacts import load_artifact
from erase_plugins.workflow.collection import copy_artifact
from hub_cards.errors import reaching
from hub_cards.fetching import Fetched, Tell, wanted_files
from hub_cards.references import parse, split
from hub_cards.remote import MERGED
from hub_cards.usage import STOCK


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
    if target is None:
        return artifact
    if artifact.path.is_dir():
        copy_artifact(artifact, target, force)
        found = replace(artifact, path=target)
        get_manager().artifact_saved(found)  # plugins put beside it what they put beside a saved one
        return found
    with atomic_folder(target, force) as work:
        shutil.copyfile(artifact.path, work / artifact.path.name)
    return replace(artifact, path=target / artifact.path.name)


def fetch(spec: str, *, offline: bool = False) -> Path:
    """The local place of a published artifact, in the client's cache; its hashes are checked.

    What does not pass is taken out of the cache again, so that the next try starts afresh. Members of a collection
    are merged if there are several.

    Raises:
        HubError: see `pull`.
    """
    source = parse(spec)
    if source.names:
        from hub_cards.collections import fetch_members

        return fetch_members(source, offline)

    got = Fetched(source.repo, offline)

    def checked() -> Path:
        place = _download(got, source.revision, ())
        if (place / FILENAME).is_file():
            for item in read_manifest(place / FILENAME).essential:
                verify_file(place, item)
        return place

    return got.verified(checked)


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
    for item in wanted_files(read_manifest(first), layouts):
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
