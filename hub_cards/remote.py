"""What is published: commit, visibility, files with hashes, texts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
from huggingface_hub.hf_api import HfApi, RepoFile

from erase_plugins.artifacts.links import GIT_ID, forget, is_as_announced
from erase_plugins.artifacts.manifest import FILENAME
from erase_plugins.artifacts.places import INDEX, MERGED
from erase_plugins.errors import HubError
from erase_plugins.records.certificate import CERTIFICATE
from hub_cards.bundle import Bundle, PushFile

#: the file that says what a repository holds, and what to call that
RECORDS = {FILENAME: "an artifact", INDEX: "a collection", MERGED: "a full checkpoint", CERTIFICATE: "a head"}


@dataclass(frozen=True)
class Remote:
    """What is published: commit, visibility, and per file its hashes (SHA-256 or git id)."""

    commit: str | None = None
    private: bool | None = None
    files: Mapping[str, str] = field(default_factory=dict)

    def text(self, bundle: Bundle, name: str) -> str:
        """A published text file, empty if there is none; its hash is checked, because parts of it are published again.

        Raises:
            HubError: it did not arrive as it is published.
        """
        if name not in self.files:
            return ""
        path = Path(hf_hub_download(bundle.repo, name, revision=self.commit, repo_type=bundle.repo_type))
        if not is_as_announced(path):
            forget(path)
            raise HubError(f"{name} of {bundle.repo} did not arrive as it is published; try again")
        return path.read_text(encoding="utf-8", errors="replace")

    def seen_by(self, bundle: Bundle, **more: Any) -> Bundle:
        """The bundle, as it is to be sent there."""
        private = bundle.private if self.private is None else self.private
        return replace(bundle, exists=self.commit is not None, parent=self.commit, private=private, **more)


def look(bundle: Bundle) -> Remote:
    """The repository of a bundle as it is now; without a commit if there is none.

    Raises:
        HubError: the Hub's answers contradict each other.
    """

    api, repo = HfApi(), bundle.repo
    try:
        info: Any = api.repo_info(repo, repo_type=bundle.repo_type, revision=bundle.revision)
    except GatedRepoError:
        raise
    except RepositoryNotFoundError:
        return Remote()
    rows = api.list_repo_tree(repo, recursive=True, revision=info.sha, repo_type=bundle.repo_type)
    files = {row.path: row.lfs.sha256 if row.lfs else row.blob_id for row in rows if isinstance(row, RepoFile)}
    if set(files) != {item.rfilename for item in info.siblings or ()}:  # what is removed depends on this list
        raise HubError(f"the Hub's two lists of the files in {repo} differ; try again")
    return Remote(info.sha, bool(info.private), files)


def with_state(item: PushFile, published: Mapping[str, str]) -> PushFile:
    """The file with its state against what is published: "new", "changed" or "same"."""
    there = published.get(item.name)
    if there is None:
        return replace(item, state="new")
    item = item if len(there) == GIT_ID else item.hashed()
    return replace(item, state="same" if item.hash_like(there) == there else "changed")
