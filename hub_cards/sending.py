"""Sends what differs: one commit, or for very many files a few, of which the last one makes the others count."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any, BinaryIO

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, RepoCard
from huggingface_hub.utils import tqdm_stream_file

from erase_plugins.errors import HubError, NotAllowed, PushRefused
from erase_plugins.hints import AGAIN, Sentence, sentence_of
from erase_plugins.readme import CARD
from erase_plugins.secret_texts import clean
from hub_cards.bundle import Bundle, PushFile
from hub_cards.errors import BAD_PAGE, reaching
from hub_cards.remote import look, with_state

#: files of one commit; the Hub gets slow with more
MOST_FILES = 1000
#: files from this size on have a bar of their own, in bytes
_LARGE = 10_000_000
#: commits and files of somebody else that are named
_TOLD = 5


class Addition(CommitOperationAdd):
    """A file as the client sends it: by LFS, which every server speaks.

    The client sends by xet what it is given by path, and has no way back from there. It sends files of the same bytes
    several times, also at once, so each time the file is opened anew. A hash that is known is handed on, since the
    client would read it all again; should the file have changed since, the server refuses bytes that are not its own.
    """

    def __init__(self, item: PushFile) -> None:
        super().__init__(item.name, item.source)
        self.item, self.path_or_fileobj = item, io.BytesIO()  # neither path nor bytes: not by xet
        if item.sha256:
            self.upload_info.sha256 = bytes.fromhex(item.sha256)

    @contextmanager
    def as_file(self, with_tqdm: bool = False) -> Iterator[BinaryIO]:
        """The file, open; a large one with a bar if asked for."""
        place, large = self.item.source, with_tqdm and self.item.size > _LARGE
        with tqdm_stream_file(place) if large and isinstance(place, Path) else self.item.open() as file:
            yield file


@dataclass(frozen=True)
class Pushed:
    """What a push did. ``commit`` is the state it left; ``sent`` names the files of its commits."""

    bundle: Bundle
    commit: str | None
    sent: tuple[str, ...] = ()
    pull_request: str | None = None
    dry_run: bool = False


def send(bundle: Bundle) -> Pushed:
    """Makes the repository if needed and commits what differs.

    A repository that was made for this push is never deleted again, since somebody may have used it meanwhile; if it
    stays empty the error says so, and the same command goes on from there.

    Raises:
        HubError: the state before is still in force.
    """
    made_here, bundle = not bundle.exists, _with_repository(bundle)
    groups = split(bundle)
    pull_request = None
    for number, (items, removed) in enumerate(groups):
        part = f" (part {number + 1} of {len(groups)})" if len(groups) > 1 else ""
        if _is_public(bundle):
            done = f"after {number} of {len(groups)} parts" if number else "and nothing was sent"
            raise PushRefused(f"{bundle.repo} became public meanwhile {done}; make it private on its settings page")
        try:
            commit, page, revision = _commit(bundle, items, removed, part, last=number + 1 == len(groups))
        except HubError as error:
            hint = ""
            if number:
                hint = Sentence(f"; {number} of {len(groups)} parts are there and do not count yet: ", AGAIN)
            elif made_here:
                hint = Sentence(f"; the new repository {bundle.repo} is still empty: ", AGAIN)
            raise type(error)(sentence_of(error), hint) from error
        pull_request = pull_request or page
        bundle = replace(bundle, parent=commit, create_pr=False, revision=revision or bundle.revision)
    public = False
    with suppress(HubError):  # everything is there, whatever the Hub does not say
        public = _is_public(bundle)
    if public:
        raise PushRefused(
            f"{bundle.repo} became public while files were sent, and everybody can read them (commit {bundle.parent}); "
            "make it private on its settings page"
        )
    return Pushed(bundle, bundle.parent, tuple(item.name for item in bundle.changed), pull_request)


def split(bundle: Bundle) -> list[tuple[Sequence[PushFile], Sequence[str]]]:
    """Files and removals of each commit.

    Files that are new may come before the rest, since nothing lists them yet; what replaces or removes something, the
    record and the card are in the last commit. Whoever pulls sees the old or the new state.
    """
    late = {CARD, bundle.record, *(item.name for item in bundle.changed if item.state != "new")}
    early = [item for item in bundle.changed if item.name not in late]
    last = [item for item in bundle.changed if item.name in late]
    room = max(0, MOST_FILES - len(last))
    first, rest = early[: max(0, len(early) - room)], early[max(0, len(early) - room) :]
    groups = [(first[start : start + MOST_FILES], ()) for start in range(0, len(first), MOST_FILES)]
    return [*groups, ([*rest, *last], bundle.removed)]


def _check_page(bundle: Bundle) -> None:
    """Asks the Hub about the page before a repository is made for it.

    Raises:
        PushRefused: it does not accept the page.
    """

    page = next((item for item in bundle.files if item.name == CARD), None)
    if page is None:
        return
    with reaching("push to", bundle.repo):
        try:
            RepoCard(page.open().read().decode()).validate(bundle.repo_type)
        except ValueError as error:
            raise ValueError(f"{BAD_PAGE} {error}") from None  # as the client says it of a commit


def _with_repository(bundle: Bundle) -> Bundle:
    if bundle.exists:
        return bundle
    _check_page(bundle)
    api = HfApi()
    try:
        with reaching("push to", bundle.repo):
            api.create_repo(  # without a word about it, an organisation's own rule for new repositories holds
                bundle.repo, private=bundle.private or None, exist_ok=True,
                repo_type=bundle.repo_type, space_sdk="gradio" if bundle.repo_type == "space" else None,
            )  # fmt: skip
            info: Any = api.repo_info(bundle.repo, repo_type=bundle.repo_type)
    except NotAllowed:
        raise
    except HubError as error:
        hint = Sentence(f"{bundle.repo} may be there now and is empty: ", AGAIN)
        raise type(error)(sentence_of(error), "; ", hint) from error
    if bundle.private and not info.private:  # made by somebody else since we looked
        raise PushRefused(f"{bundle.repo} exists and is public; make it private on its settings page")
    template = {".gitattributes"} if bundle.repo_type == "model" else {".gitattributes", CARD}  # the Hub's own files
    if {item.rfilename for item in info.siblings or ()} - template:
        raise PushRefused(
            f"somebody made {bundle.repo} meanwhile and nothing was overwritten; look at it, then ", AGAIN
        )
    return replace(bundle, parent=info.sha, private=bool(info.private))


def _is_public(bundle: Bundle) -> bool:
    """Whether everybody sees a repository now that only its owner should.

    Raises:
        HubError: the Hub does not say.
    """
    with reaching("push to", bundle.repo):
        return bundle.private and not HfApi().repo_info(bundle.repo, repo_type=bundle.repo_type).private


def _commit(
    bundle: Bundle, items: Sequence[PushFile], removed: Sequence[str], part: str, last: bool
) -> tuple[str, str | None, str | None]:
    """Commit id, and page and revision of a pull request that was opened."""

    operations: list[Any] = [*map(Addition, items), *map(CommitOperationDelete, removed)]
    try:
        with reaching("push to", bundle.repo):
            made = HfApi().create_commit(
                bundle.repo, operations, commit_message=bundle.message + part, revision=bundle.revision,
                repo_type=bundle.repo_type, create_pr=bundle.create_pr, parent_commit=bundle.parent,
            )  # fmt: skip
    except PushRefused as error:
        raise PushRefused(sentence_of(error), _since(bundle)) from error
    except HubError:
        commit = None if bundle.create_pr or not last else _arrived(bundle)
        if commit is None:
            raise
        return commit, None, None  # only the answer was lost
    return made.oid, made.pr_url, made.pr_revision


def _since(bundle: Bundle) -> str:
    """What changed on the Hub since the parent of a bundle, for the message; nothing if that cannot be found out."""

    api = HfApi()
    try:
        now = look(bundle)
        before = look(replace(bundle, revision=bundle.parent))
        commits = api.list_repo_commits(bundle.repo, revision=now.commit, repo_type=bundle.repo_type)
    except Exception:  # the refusal is what has to be told
        return ""
    if now.commit == bundle.parent:
        return ""
    newer = list(takewhile(lambda item: item.commit_id != bundle.parent, commits))
    titles = [f"{item.commit_id[:12]} '{clean(item.title)[:60]}' by {clean(', '.join(item.authors))}" for item in newer]
    files = sorted({name for name, _ in now.files.items() ^ before.files.items()})
    shown = f"{', '.join(map(clean, files[:_TOLD]))}{' ...' if len(files) > _TOLD else ''}"
    return f"; since then: {', '.join(titles[:_TOLD])}; it changed {len(files)} files: {shown}"


def _arrived(bundle: Bundle) -> str | None:
    """The commit, if the repository holds the new state although the answer said otherwise."""
    try:
        remote = look(bundle)
    except Exception:  # still no connection; the first error is the one to tell
        return None
    same = all(with_state(item, remote.files).state == "same" for item in bundle.files)
    return remote.commit if same and not set(bundle.removed) & set(remote.files) else None
