"""Publishes an artifact: one commit with exactly the listed files, or none at all."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from erase_plugins.artifacts.manifest import FILENAME, Manifest
from erase_plugins.errors import CorruptArtifact, HubError, NotAllowed, PushRefused, RequestError
from erase_plugins.types import EvalReport
from hub_cards.bundle import (
    CARD,
    PICTURES,
    REPORT,
    Bundle,
    PushFile,
    artifact_files,
    card_diff,
    read_report,
    report_files,
)
from hub_cards.errors import check_repo, reaching
from hub_cards.model_card import card, keep_user_text

_XET = threading.Lock()


@dataclass(frozen=True)
class Pushed:
    """What a push did. ``commit`` is the state it left; ``sent`` names the files of its commit."""

    bundle: Bundle
    commit: str | None
    sent: tuple[str, ...] = ()
    pull_request: str | None = None
    dry_run: bool = False


@dataclass(frozen=True)
class _Remote:
    """What is published: commit, visibility, and per file its hashes (SHA-256 or git id)."""

    commit: str | None = None
    private: bool | None = None
    files: Mapping[str, str] = field(default_factory=dict)


def push(
    artifact: Any,
    repo: str,
    *,
    report: EvalReport | str | Path | None = None,
    private: bool = False,
    create_pr: bool = False,
    revision: str | None = None,
    message: str | None = None,
    license: str | None = None,
    parent: str | None = None,
    pictures: bool | None = None,
    dry_run: bool = False,
    show: Callable[[Bundle], None] | None = None,
) -> Pushed:
    """Publishes an artifact folder. Logged in with ``hf auth login`` or ``HF_TOKEN``; no token is ever passed.

    Args:
        artifact: an `Artifact` with a path, or the path.
        repo: "owner/name"; made if it does not exist.
        report: evaluation of the artifact (report, report.json or its folder); goes onto the card and along.
        private: make a new repository private. An existing public one is refused then.
        create_pr: open a pull request instead of changing the branch.
        revision: branch; the main one if None.
        message: first line of the commit.
        license: licence id, where that of the base model is not known.
        parent: refuse unless the repository is still at this commit.
        pictures: publish the report's pictures; by default yes, except for concepts of kind "explicit".
        dry_run: look and tell, change nothing.
        show: called with the bundle before anything is changed.

    Raises:
        HubError: not reachable or refused; the repository holds its old state.
        PushRefused: a plugin's veto, a changed repository, an unknown licence, a public repository with ``private``.
        NotAllowed: not logged in, or no right to write there.
    """
    from erase_plugins.artifacts.artifact import load_artifact

    check_repo(repo)
    if create_pr and revision not in (None, "main"):
        raise RequestError("a pull request starts from the main branch; leave --revision out")
    loaded = load_artifact(artifact)
    found, folder = read_report(report)
    kinds = {concept.kind for concept in loaded.manifest.concepts}
    extra = report_files(found, folder, "explicit" not in kinds if pictures is None else pictures)
    shown = [item.name for item in extra if item.name in PICTURES.values()]
    text = card(loaded, found, repo=repo, license=license, pictures=shown, strict=True)
    files = [*artifact_files(loaded), *extra]
    bundle = Bundle(
        loaded, repo, tuple(files), private=private, revision=revision, create_pr=create_pr,
        message=message or f"{loaded.name}: {', '.join(loaded.manifest.erased)[:60]} erased",
    )  # fmt: skip
    return publish(bundle, text, parent=parent, dry_run=dry_run, show=show)


def publish(
    bundle: Bundle,
    text: str,
    *,
    parent: str | None = None,
    dry_run: bool = False,
    show: Callable[[Bundle], None] | None = None,
) -> Pushed:
    """Compares files and page with what is published, tells, and sends what differs in one commit.

    Args:
        bundle: repository, files and settings; states, parent and page are filled in here.
        text: the page (README.md).
        parent, dry_run, show: as for `push`.

    Raises:
        HubError, PushRefused, NotAllowed: as for `push`.
    """
    from erase_plugins.manager import get_manager

    repo, private = bundle.repo, bundle.private
    token_needed(dry_run)
    with reaching("push to", repo):
        bundle = _compare(bundle, text)
    if parent is not None and not (bundle.parent or "").startswith(parent):
        raise PushRefused(
            f"{repo} is at commit {(bundle.parent or 'none')[:12]}, not at {parent[:12]}; look at what changed first"
        )
    if private and bundle.exists and not bundle.private:
        raise PushRefused(f"{repo} exists and is public; make it private on its settings page, or leave --private out")
    get_manager().before_push(bundle, repo)
    if show is not None:
        show(bundle)
    if dry_run or not (bundle.changed or bundle.removed):
        return Pushed(bundle, bundle.parent, dry_run=dry_run)
    return _send(bundle)


def token_needed(dry_run: bool = False) -> None:
    """Whether somebody is logged in; looking needs no login.

    Raises:
        NotAllowed: nobody is.
    """
    from huggingface_hub import get_token

    if not dry_run and not get_token():
        raise NotAllowed("not logged in; run 'hf auth login' or set HF_TOKEN")


def _compare(bundle: Bundle, text: str) -> Bundle:
    """The bundle with the card, the state of every file, the parent and what is to be removed."""
    remote = _look(bundle)
    old_card, gone = "", tuple[str, ...]()
    if remote.commit is not None:
        if CARD in remote.files:
            old_card = _published(bundle, CARD, remote.commit)
            text = keep_user_text(text, old_card)
        if FILENAME in remote.files:
            gone = _left_over(bundle, remote)
    files = [_with_state(item, remote.files) for item in (*bundle.files, PushFile(CARD, text.encode()))]
    return replace(
        bundle, files=tuple(files), removed=gone, exists=remote.commit is not None, parent=remote.commit,
        private=bundle.private if remote.private is None else remote.private,
        diff=card_diff(old_card, text) if old_card else (),
    )  # fmt: skip


def _look(bundle: Bundle) -> _Remote:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
    from huggingface_hub.hf_api import RepoFile

    api, repo = HfApi(), bundle.repo
    try:
        info: Any = api.repo_info(repo, repo_type=bundle.repo_type, revision=bundle.revision)
    except GatedRepoError:
        raise
    except RepositoryNotFoundError:
        return _Remote()
    rows = api.list_repo_tree(repo, recursive=True, revision=info.sha, repo_type=bundle.repo_type)
    files = {row.path: row.lfs.sha256 if row.lfs else row.blob_id for row in rows if isinstance(row, RepoFile)}
    if set(files) != {item.rfilename for item in info.siblings or ()}:  # what is removed depends on this list
        raise HubError(f"the Hub's two lists of the files in {repo} differ; try again")
    return _Remote(info.sha, bool(info.private), files)


def _with_state(item: PushFile, published: Mapping[str, str]) -> PushFile:
    if item.name not in published:
        return replace(item, state="new")
    return replace(item, state="same" if published[item.name] in item.hashes() else "changed")


def _published(bundle: Bundle, name: str, commit: str) -> str:
    """A text file of the repository; its hash is checked, because parts of it are published again."""
    from huggingface_hub import hf_hub_download

    from hub_cards.pulling import check_blob, forget

    path = Path(hf_hub_download(bundle.repo, name, revision=commit, repo_type=bundle.repo_type))
    try:
        check_blob(path)
        return path.read_text(encoding="utf-8", errors="replace")
    except CorruptArtifact as error:
        forget(path)
        raise HubError(f"{name} of {bundle.repo} did not arrive as it is published; try again") from error


def _left_over(bundle: Bundle, remote: _Remote) -> tuple[str, ...]:
    """Files of the artifact published before: two sets of weights side by side would be taken for one."""
    ours = [REPORT, *PICTURES.values()]
    with suppress(CorruptArtifact):
        old = Manifest.from_json(_published(bundle, FILENAME, str(remote.commit)))
        ours += [item.name for item in old.files]
    names = {item.name for item in bundle.files}
    return tuple(name for name in ours if name not in names and name in remote.files)


def _send(bundle: Bundle) -> Pushed:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    api = HfApi()
    sent = tuple(item.name for item in bundle.changed)
    with reaching("push to", bundle.repo):
        if not bundle.exists:
            api.create_repo(
                bundle.repo, private=bundle.private, exist_ok=True,
                repo_type=bundle.repo_type, space_sdk=bundle.space_sdk,
            )  # fmt: skip
            bundle = replace(bundle, parent=api.repo_info(bundle.repo, repo_type=bundle.repo_type).sha)
    operations: list[Any] = [CommitOperationAdd(item.name, item.source) for item in bundle.changed]
    operations += [CommitOperationDelete(name) for name in bundle.removed]
    try:
        with reaching("push to", bundle.repo), _without_xet():
            made = api.create_commit(
                bundle.repo, operations, commit_message=bundle.message, revision=bundle.revision,
                repo_type=bundle.repo_type, create_pr=bundle.create_pr, parent_commit=bundle.parent,
            )  # fmt: skip
    except PushRefused:
        raise
    except HubError:
        commit = None if bundle.create_pr else _arrived(bundle)
        if commit is None:
            raise
        return Pushed(bundle, commit, sent)  # only the answer was lost
    return Pushed(bundle, made.oid, sent, made.pr_url)


def _arrived(bundle: Bundle) -> str | None:
    """The commit, if the repository holds the new state although the answer said otherwise."""
    try:
        remote = _look(bundle)
    except Exception:  # still no connection; the first error is the one to tell
        return None
    same = all(_with_state(item, remote.files).state == "same" for item in bundle.files)
    return remote.commit if same and not set(bundle.removed) & set(remote.files) else None


@contextmanager
def _without_xet() -> Iterator[None]:
    """Uploads over LFS, which every server speaks; the client has no way back once it tried xet."""
    from huggingface_hub import constants

    with _XET:
        before = constants.HF_HUB_DISABLE_XET
        constants.HF_HUB_DISABLE_XET = True
        try:
            yield
        finally:
            constants.HF_HUB_DISABLE_XET = before
