"""Publishes an artifact: one commit with exactly the listed files, or none at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from erase_plugins.errors import NotAllowed, PushRefused, RequestError
from erase_plugins.types import EvalReport
from hub_cards.bundle import CARD, PICTURES, Bundle, PushFile, artifact_files, card_diff, read_report, report_files
from hub_cards.errors import check_repo, reaching
from hub_cards.gallery import Gallery, read_gallery
from hub_cards.model_card import card, keep_user_text
from hub_cards.remote import left_over, look, published_text, with_state
from hub_cards.secrets import check_files
from hub_cards.sending import Pushed, send
from hub_cards.sensitive import to_blur

__all__ = ["Pushed", "publish", "push", "token_needed"]


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
    pictures: bool = True,
    gallery: Gallery | str | Path | None = None,
    blur: bool | None = None,
    adult: bool | None = None,
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
        pictures: publish pictures at all.
        gallery: pairs before and after (`hub_cards.draw_pairs`), or the folder where a card and its pictures lie.
        blur: make pictures unrecognisable; by default for explicit concepts and persons.
        adult: ask visitors of the page first; by default for explicit concepts.
        dry_run: look and tell, change nothing.
        show: called with the bundle before anything is changed.

    Raises:
        HubError: not reachable or refused; the repository holds its old state.
        PushRefused: a plugin's veto, a changed repository, an unknown licence, a public repository with ``private``.
        NotAllowed: not logged in, or no right to write there.
    """
    from erase_plugins.artifacts.artifact import load_artifact
    from erase_plugins.artifacts.store import verify_file

    check_repo(repo)
    if create_pr and revision not in (None, "main"):
        raise RequestError("a pull request starts from the main branch; leave --revision out")
    loaded = load_artifact(artifact)
    found, folder = read_report(report)
    hide = to_blur(loaded.manifest.concepts) if blur is None else blur
    extra = report_files(found, folder, pictures, hide)
    shown = [item.name for item in extra if item.name in PICTURES.values()]
    drawn = gallery if isinstance(gallery, Gallery) or gallery is None else read_gallery(gallery)
    drawn = None if drawn is None or not pictures else drawn.blur() if hide else drawn
    extra += [] if drawn is None else [PushFile(name, data) for name, data in drawn.files().items()]
    text = card(
        loaded, found, repo=repo, license=license, pictures=shown, gallery=drawn, adult=adult, strict=True
    )  # fmt: skip
    files = [*artifact_files(loaded), *extra]
    if loaded is artifact:  # it was read some time ago
        for item in loaded.manifest.files:
            verify_file(loaded.path, item)
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
    check_files(bundle.changed)
    get_manager().before_push(bundle, repo)
    if show is not None:
        show(bundle)
    if dry_run or not (bundle.changed or bundle.removed):
        return Pushed(bundle, bundle.parent, dry_run=dry_run)
    return send(bundle)


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
    remote = look(bundle)
    old_card, gone = "", tuple[str, ...]()
    if remote.commit is not None:
        if CARD in remote.files:
            old_card = published_text(bundle, CARD, remote.commit)
            text = keep_user_text(text, old_card)
        gone = left_over(bundle, remote)
    files = [with_state(item, remote.files) for item in (*bundle.files, PushFile(CARD, text.encode()))]
    return replace(
        bundle, files=tuple(files), removed=gone, exists=remote.commit is not None, parent=remote.commit,
        private=bundle.private if remote.private is None else remote.private,
        diff=card_diff(old_card, text) if old_card else (),
    )  # fmt: skip
