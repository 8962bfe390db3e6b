"""What the test Hub remembers: blobs and cards by hash, repositories as chains of complete snapshots. No HTTP here."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from erase_plugins.testing.hub_xet import XetStorage

#: file endings that go through LFS whatever their size, as a fresh repository's .gitattributes says
LFS_ENDINGS = (".safetensors", ".bin", ".png", ".jpg", ".gif", ".zip", ".npz", ".parquet", ".ckpt", ".pt")
LFS_BYTES = 10_000_000
MAIN = "main"
#: Spaces are repositories with this before their name; a model and a Space may share one
SPACE = "space:"


class HubRefusal(Exception):
    """An answer other than success: status, error code as the Hub names it, message."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


@dataclass(frozen=True)
class Entry:
    """A file of a snapshot: SHA-256 of its bytes, size, git object id, whether it is kept by LFS, and its xet hash."""

    sha256: str
    size: int
    oid: str
    lfs: bool
    xet: str | None = None

    @property
    def etag(self) -> str:
        """What the client uses as name in its cache."""
        return self.sha256 if self.lfs else self.oid

    def to_json(self, path: str) -> dict[str, object]:
        """The entry as the tree route tells it."""
        found: dict[str, object] = {"type": "file", "path": path, "size": self.size, "oid": self.oid}
        if self.lfs:
            found["lfs"] = {"oid": self.sha256, "size": self.size, "pointerSize": 134}
        if self.xet:
            found["xetHash"] = self.xet
        return found


@dataclass(frozen=True)
class Commit:
    """A snapshot: every file of the repository, and the commit before."""

    oid: str
    parent: str | None
    title: str
    message: str
    author: str
    files: Mapping[str, Entry]


@dataclass
class Repository:
    """One repository: commits, branches, tags and pull requests (kept as refs/pr/N)."""

    repo_id: str
    private: bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    pulls: dict[str, str] = field(default_factory=dict)
    downloads: int = 0

    def commit(self, revision: str = MAIN) -> Commit:
        """The commit of a branch, tag, pull request or (shortened) commit id.

        Raises:
            HubRefusal: no such revision.
        """
        for table in (self.branches, self.tags, self.pulls):
            if revision in table:
                return self.commits[table[revision]]
        found = [item for oid, item in self.commits.items() if len(revision) >= 7 and oid.startswith(revision)]
        if len(found) == 1:
            return found[0]
        raise HubRefusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")

    def history(self, revision: str = MAIN) -> list[Commit]:
        """Commits from the newest to the first."""
        found = [self.commit(revision)]
        while found[-1].parent is not None:
            found.append(self.commits[found[-1].parent])
        return found

    def add(self, base: Commit | None, title: str, message: str, author: str, files: Mapping[str, Entry]) -> Commit:
        """A new commit after ``base``; no branch is moved."""
        parent = None if base is None else base.oid
        text = json.dumps([self.repo_id, parent, title, message, sorted((k, v.sha256) for k, v in files.items())])
        salt = f"{text}{len(self.commits)}"
        made = Commit(hashlib.sha1(salt.encode()).hexdigest(), parent, title, message, author, dict(files))
        self.commits[made.oid] = made
        return made


class HubStore:
    """All repositories and blobs of one test Hub.

    Args:
        xet: storage for files that the client handles with its xet library; None speaks LFS only.
        redirects: files kept by LFS are served from another host name, as the Hub's content network does.
    """

    def __init__(self, xet: XetStorage | None = None, redirects: bool = False) -> None:
        self.xet, self.redirects = xet, redirects
        #: former names of repositories -> their names
        self.moved: dict[str, str] = {}
        #: account -> visibility of its new repositories where nobody names one
        self.visibility: dict[str, str] = {}
        self.blobs: dict[str, bytes] = {}
        self.cards: dict[str, dict[str, object]] = {}
        self.repositories: dict[str, Repository] = {}
        #: address of a list of repositories -> what the Hub tells of it
        self.collections: dict[str, dict[str, Any]] = {}
        self._numbers = itertools.count(1)

    def create(self, repo_id: str, private: bool, author: str) -> Repository:
        """A new repository with an empty first commit.

        Raises:
            HubRefusal: exists (409).
        """
        if repo_id in self.repositories:
            raise HubRefusal(409, "RepoExists", f"You already created this model repo: {repo_id}")
        made = Repository(repo_id, private)
        made.branches[MAIN] = made.add(None, "initial commit", "", author, {}).oid
        self.repositories[repo_id] = made
        return made

    def repository(self, repo_id: str) -> Repository:
        """The repository of that name.

        Raises:
            HubRefusal: there is none (404).
        """
        if repo_id not in self.repositories:
            raise HubRefusal(404, "RepoNotFound", "Repository not found")
        return self.repositories[repo_id]

    def put(self, data: bytes) -> str:
        """Keeps a blob and gives its SHA-256."""
        sha256 = hashlib.sha256(data).hexdigest()
        self.blobs[sha256] = data
        return sha256

    def entry(self, sha256: str, lfs: bool) -> Entry:
        """A snapshot entry for a blob that is kept. With a xet storage what came by LFS is moved there.

        Raises:
            HubRefusal: the blob was never uploaded (400).
        """
        found = self.xet.find(sha256) if self.xet and lfs else None
        if self.xet and found and sha256 not in self.blobs:
            self.put(self.xet.get(*found))
        if sha256 not in self.blobs:
            raise HubRefusal(400, "BadRequest", f"Your push was rejected because an LFS object is missing: {sha256}")
        data = self.blobs[sha256]
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {len(data)}\n".encode()
        body = pointer if lfs else data
        oid = hashlib.sha1(b"blob %d\x00%b" % (len(body), body)).hexdigest()
        xet = None if not self.xet or not lfs else found[0] if found else self.xet.put(data)
        return Entry(sha256, len(data), oid, lfs, xet)

    def apply(
        self,
        repository: Repository,
        revision: str,
        lines: list[tuple[str, dict[str, object]]],
        files: Mapping[str, Entry],
        author: str,
        create_pr: bool = False,
    ) -> tuple[Commit, str | None]:
        """One atomic commit: all of it or nothing.

        Args:
            repository: where.
            revision: branch (or refs/pr/N) to move.
            lines: the parsed ndjson body.
            files: entries of all added files, every blob present.
            author: name of the account.
            create_pr: make a pull request instead of moving the branch.

        Returns:
            The commit, and the reference of the new pull request.

        Raises:
            HubRefusal: stale parent (412), unusable path or deletion (400).
        """
        header = next((value for key, value in lines if key == "header"), {})
        base, parent = repository.commit(revision), header.get("parentCommit")
        if isinstance(parent, str):
            if create_pr:
                base = repository.commit(parent)
            elif not base.oid.startswith(parent):
                raise HubRefusal(
                    412, "PreconditionFailed", f"A commit has happened since: {base.oid}. Expected {parent}"
                )
        table = dict(base.files)
        for key, value in lines:
            path = str(value.get("path", "")).rstrip("/")
            if key == "deletedFile":
                if table.pop(path, None) is None:
                    raise HubRefusal(400, "BadRequest", f"no file {path} to delete")
            elif key == "deletedFolder":
                table = {name: item for name, item in table.items() if not name.startswith(f"{path}/")}
        for path in files:
            parts = PurePosixPath(path).parts
            if not parts or path.startswith("/") or {"..", ".git"} & set(parts):
                raise HubRefusal(400, "BadRequest", f"unusable path {path}")
        table.update(files)
        title, message = str(header.get("summary", "")), str(header.get("description", ""))
        made = repository.add(base, title, message, author, table)
        if create_pr:
            name = f"refs/pr/{next(self._numbers)}"
            repository.pulls[name] = made.oid
            return made, name
        place = repository.pulls if revision in repository.pulls else repository.branches
        place[revision] = made.oid
        return made, None


def is_lfs(path: str, size: int) -> bool:
    """Whether a new file is uploaded through LFS."""
    return path.endswith(LFS_ENDINGS) or size > LFS_BYTES
