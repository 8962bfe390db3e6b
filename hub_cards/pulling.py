"""Fetches published artifacts: only the files that are needed, verified before anybody uses them."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

from erase_plugins.artifacts.manifest import FILENAME, Manifest
from erase_plugins.errors import CorruptArtifact, EraseError, HubError, RequestError
from hub_cards import SCHEME
from hub_cards.errors import check_repo, reaching

#: what diffusers itself would load from a repository without a manifest
STOCK = "pytorch_lora_weights.safetensors"


def split(spec: str) -> tuple[str, str | None]:
    """Repository and revision of "owner/name", "owner/name@revision", with or without "hub:" before.

    Raises:
        RequestError: another form.
    """
    repo, sign, revision = spec.removeprefix(SCHEME).partition("@")
    if sign and not revision.strip():
        raise RequestError(f"'{spec}' has no revision after '@'; name a branch, a tag or a commit")
    return check_repo(repo), revision.strip() or None


def pull(
    spec: str, into: str | Path | None = None, *, model: Any = None, force: bool = False, offline: bool = False
) -> Any:
    """A verified artifact from the Hub.

    Args:
        spec: "owner/name" or "owner/name@revision" (branch, tag or commit).
        into: copy it into this new folder; None leaves it in the client's cache.
        model: pipeline that it must fit; None skips this check.
        force: replace an existing folder.
        offline: use the cache only.

    Returns:
        The `Artifact`; its ``path`` is a folder, or a single file for a LoRA repository that has no manifest.

    Raises:
        HubError: not there, not reachable, or the bytes that came are not those that were published.
        BaseMismatch: made for other weights than ``model``.
    """
    from erase_plugins.artifacts.artifact import load_artifact
    from erase_plugins.artifacts.atomic import atomic_folder, refuse_existing

    target = None if into is None else Path(into)
    if target is not None:
        refuse_existing(target, force)
    place = fetch(spec, offline=offline)
    artifact = load_artifact(place)
    if model is not None:
        from erase_plugins.families.loading import as_target
        from erase_plugins.runtime.guard import check_base

        check_base(artifact.manifest, as_target(model))
    if target is None:
        return artifact
    with atomic_folder(target, force) as work:
        if place.is_dir():
            for name in (FILENAME, *(item.name for item in artifact.manifest.files)):
                (work / name).parent.mkdir(exist_ok=True)
                shutil.copyfile(place / name, work / name)
        else:
            shutil.copyfile(place, work / place.name)
    return load_artifact(target if place.is_dir() else target / place.name)


def fetch(spec: str, *, offline: bool = False) -> Path:
    """The verified local place of a published artifact, in the client's cache.

    What does not pass verification is taken out of the cache again, so that the next try starts afresh.

    Raises:
        HubError: see `pull`.
    """
    from erase_plugins.artifacts.artifact import load_artifact

    repo, revision = split(spec)
    got: list[Path] = []
    try:
        with reaching("pull from", repo):
            place = _download(repo, revision, offline, got)
        load_artifact(place)
    except CorruptArtifact as error:
        for path in got:
            forget(path)
        raise HubError(
            f"what came from {repo} is damaged and was not kept: {error}; pull again, or tell its author"
        ) from error
    return place


def _download(repo: str, revision: str | None, offline: bool, got: list[Path]) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import RemoteEntryNotFoundError

    def one(name: str, commit: str | None) -> Path:
        path = Path(hf_hub_download(repo, name, revision=commit, local_files_only=offline))
        got.append(path)
        if name == FILENAME:  # everything else has its hash in the manifest
            check_blob(path)
        return path

    try:
        first = one(FILENAME, revision)
    except RemoteEntryNotFoundError:
        return _plain(repo, revision, one)
    except EraseError:
        raise
    except Exception as error:
        stock = _cached_plain(repo, revision, error)
        if stock is None:
            raise
        return stock
    commit = first.parent.name  # every further file comes from the same commit, whatever happens to the branch
    for item in Manifest.from_json(first.read_text(encoding="utf-8", errors="replace")).files:
        one(item.name, commit)
    return first.parent


def _plain(repo: str, revision: str | None, one: Any) -> Path:
    """The weights of a LoRA repository that has no manifest.

    Raises:
        HubError: no safetensors file, or several and none has the usual name.
    """
    from huggingface_hub import HfApi

    info = HfApi().model_info(repo, revision=revision)
    names = sorted(item.rfilename for item in info.siblings or () if item.rfilename.endswith(".safetensors"))
    names = [name for name in names if "/" not in name]
    if STOCK in names or len(names) == 1:
        path = one(STOCK if STOCK in names else names[0], info.sha)
        check_blob(path)
        return path
    what = f"several: {', '.join(names[:5])}" if names else "none at its root"
    raise HubError(f"{repo} has no {FILENAME} and not one clear safetensors file ({what}); download the file you want")


def _cached_plain(repo: str, revision: str | None, error: BaseException) -> Path | None:
    """Offline: the weights of a repository without manifest that was pulled before."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import LocalEntryNotFoundError

    if not isinstance(error, LocalEntryNotFoundError):
        return None
    found = try_to_load_from_cache(repo, STOCK, revision=revision)
    return Path(found) if isinstance(found, str) else None


def check_blob(path: Path) -> None:
    """Compares a cached file with the hash that its blob is named after (where the cache uses links).

    Raises:
        CorruptArtifact: other bytes than the Hub announced.
    """
    blob = path.resolve()
    if blob.parent.name != "blobs":
        return
    data = blob.read_bytes()
    git = hashlib.sha1(b"blob %d\x00%b" % (len(data), data)).hexdigest()
    if len(blob.name) in (40, 64) and blob.name not in (git, hashlib.sha256(data).hexdigest()):
        raise CorruptArtifact(f"{path.name} does not match its hash")


def forget(path: Path) -> None:
    """Takes a cached file away, with the blob behind it."""
    blob = path.resolve()
    path.unlink(missing_ok=True)
    if blob.parent.name == "blobs":
        blob.unlink(missing_ok=True)
