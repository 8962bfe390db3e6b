"""What a push is made of: the exact list of files, how each differs from what is published, and its options."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

from erase_plugins.artifacts.links import GIT_ID, announced_hash
from erase_plugins.artifacts.manifest import FILENAME
from erase_plugins.artifacts.reference import check_repo
from erase_plugins.errors import RequestError
from erase_plugins.hints import Hint
from erase_plugins.page.package import pinned
from erase_plugins.workflow.artifacts import whole


@dataclass(frozen=True)
class PushFile:
    """One file: its name in the repository, its bytes or its place on disk, and "new", "changed" or "same".

    ``sha256`` is kept where it is known, so that no file is read twice for it.
    """

    name: str
    source: bytes | Path
    state: str = "new"
    sha256: str | None = field(default=None, compare=False)
    #: in bytes; kept, since the place may be a temporary one
    size: int = field(init=False, compare=False)

    def __post_init__(self) -> None:
        size = len(self.source) if isinstance(self.source, bytes) else self.source.stat().st_size
        object.__setattr__(self, "size", size)

    def hashed(self) -> PushFile:
        """The file with its SHA-256."""
        return self if self.sha256 else replace(self, sha256=self.hash_like(""))

    def hash_like(self, announced: str) -> str:
        """Its hash as the Hub announces it: SHA-256, or a git id if ``announced`` is one."""
        if self.sha256 and len(announced) != GIT_ID:
            return self.sha256
        with self.open() as file:
            return announced_hash(file, announced)

    def open(self) -> BinaryIO:
        """Its bytes, from the beginning."""
        return io.BytesIO(self.source) if isinstance(self.source, bytes) else self.source.open("rb")


@dataclass(frozen=True)
class Bundle:
    """Everything that a push would do; plugins see it in ``erase_before_push`` and may veto.

    Attributes:
        artifact: the verified artifact.
        repo: "owner/name".
        files: all files of the new state, changed or not.
        removed: files of the artifact published before that this one lacks.
        private: whether only the owner sees the repository.
        exists: whether the repository is there already.
        parent: commit that the new one follows; None before the repository exists.
        revision: branch; None is the main one.
        create_pr: a pull request is opened instead of changing the branch.
        message: first line of the commit.
        diff: lines of the card that change.
        repo_type: "model" or "space".
        record: name of the file that says what the repository holds.
        dry_run: nothing will be sent; a plugin writes nothing then either.
        unseen: why the repository could not be looked at (dry runs only); then every file counts as new.
    """

    artifact: Any
    repo: str
    files: tuple[PushFile, ...]
    removed: tuple[str, ...] = ()
    private: bool = False
    exists: bool = False
    parent: str | None = None
    revision: str | None = None
    create_pr: bool = False
    message: str = ""
    diff: tuple[str, ...] = ()
    repo_type: str = "model"
    record: str = FILENAME
    dry_run: bool = False
    unseen: str = ""

    @property
    def changed(self) -> tuple[PushFile, ...]:
        """Files that are sent."""
        return tuple(item for item in self.files if item.state != "same")

    @property
    def of_artifact(self) -> bool:
        """Whether it is an artifact with its page, rather than a collection, a model, a head or a Space."""
        return self.record == FILENAME and self.repo_type == "model"

    @property
    def bytes(self) -> int:
        """Size of what is sent."""
        return sum(item.size for item in self.changed)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready description."""
        return {
            "repo": self.repo, "private": self.private, "exists": None if self.unseen else self.exists,
            "unseen": self.unseen, "parent": self.parent, "revision": self.revision, "create_pr": self.create_pr,
            "message": self.message, "bytes": self.bytes, "removed": list(self.removed),
            "files": [{"name": item.name, "bytes": item.size, "state": item.state} for item in self.files],
        }  # fmt: skip


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


def of(files: Mapping[str, bytes | Path]) -> list[PushFile]:
    """Files by their names in the repository, as a push takes them."""
    return [PushFile(name, source) for name, source in files.items()]


def artifact_files(artifact: Any) -> list[PushFile]:
    """Everything that belongs to a saved artifact; the listed files are taken to be verified.

    Raises:
        ArtifactError: not saved as a folder, or not whole.
    """
    return [PushFile(name, artifact.path / name, sha256=sha256) for name, sha256 in whole(artifact).items()]
