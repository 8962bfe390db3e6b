"""How something is published: what every push takes, whatever it sends."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from erase_plugins.errors import RequestError
from erase_plugins.hints import Hint
from erase_plugins.page.package import pinned
from hub_cards.bundle import Bundle, PushFile
from hub_cards.errors import check_repo


@dataclass(frozen=True)
class How:
    """The options of every push.

    Attributes:
        private: make a new repository private. An existing public one is refused then.
        create_pr: open a pull request instead of changing the branch.
        revision: branch; the main one if None.
        message: first line of the commit.
        license: licence id, where that of the base model is not known.
        parent: refuse unless the repository is still at this commit.
        prune: take published evidence off the page that is not brought anew, and artifacts that a collection lacks;
            replace files of the same names that others put there.
        personal: send e-mail addresses and home folders as they are; access keys never are.
        requirement: line for pip with which readers of the page get this package, see `erase_plugins.page.package`.
        dry_run: look and tell, change nothing; without a connection it tells what would be sent to a new repository.
        show: called with the bundle before anything is changed.
    """

    private: bool = False
    create_pr: bool = False
    revision: str | None = None
    message: str | None = None
    license: str | None = None
    parent: str | None = None
    prune: bool = False
    personal: bool = False
    requirement: str | None = None
    dry_run: bool = False
    show: Callable[[Bundle], None] | None = None

    @classmethod
    def checked(cls, repo: str, options: Mapping[str, Any]) -> How:
        """The options for a repository; what could not be published is refused before any work.

        Raises:
            RequestError: another form than owner/name, a pull request from a branch, a source that is not pinned.
        """
        how = cls(**options)
        check_repo(repo)
        if how.create_pr and how.revision not in (None, "main"):
            raise RequestError(
                "a pull request starts from the main branch; ", Hint("revision", before="leave", after="out")
            )
        if how.requirement is not None:
            pinned(how.requirement)
        return how

    def bundle(self, artifact: Any, repo: str, files: Iterable[PushFile], message: str, **more: Any) -> Bundle:
        """What is to be sent; ``message`` if none was given."""
        return Bundle(
            artifact, repo, tuple(files), private=self.private, revision=self.revision, create_pr=self.create_pr,
            message=self.message or message, **more,
        )  # fmt: skip
