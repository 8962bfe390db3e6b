"""Single files into the client's cache: sizes before bytes, hashes after, and nothing damaged is kept.

A cached file is a link into the ``blobs`` folder of its repository, where its name is the hash that the Hub announced.
For files that the Hub keeps by xet that entry is itself a link: into the ``blobs`` folder that all repositories of the
cache share, under the xet hash. The client links what it finds there without looking at the bytes.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import constants, hf_hub_download
from huggingface_hub.hf_api import HfApi, RepoFile

from erase_plugins.artifacts.links import in_shared_blobs
from erase_plugins.artifacts.manifest import FILENAME, ArtifactFile, Manifest
from erase_plugins.artifacts.places import INDEX
from erase_plugins.artifacts.store import MOST_MANIFEST_BYTES
from erase_plugins.errors import CorruptArtifact, HubError, RequestError
from erase_plugins.workflow.collection import MOST_INDEX_BYTES
from hub_cards.bundle import PushFile
from hub_cards.errors import reaching
from hub_cards.progress import Tell, telling

#: bytes of what has no hash in a manifest: the manifest itself, an index, a LoRA file of a repository without manifest,
#: a picture of a page
MOST = {FILENAME: MOST_MANIFEST_BYTES, INDEX: MOST_INDEX_BYTES}
MOST_PLAIN, MOST_PICTURE = 8_000_000_000, 50_000_000
#: stands for every layout
ALL = "all"


_HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


@dataclass
class Fetched:
    """Files of one repository that came into the cache, so that damaged ones can be taken out again."""

    repo: str
    offline: bool
    progress: Tell | None = None
    files: list[Path] = field(default_factory=list)

    def one(self, name: str, revision: str | None, listed: ArtifactFile | None = None) -> Path:
        """A file by its name; its size is asked for before a byte of it comes.

        Args:
            name: name in the repository.
            revision: branch, tag or commit.
            listed: what a manifest says about it. Without that it is compared with the hash that the Hub announced.

        Raises:
            CorruptArtifact: not as large as listed, larger than such a file can be, or other bytes than announced.
        """

        cached = self.offline or self._check_size(name, revision, listed)
        with telling(self.progress) as more:
            path = Path(hf_hub_download(self.repo, name, revision=revision, local_files_only=self.offline, **more))
        self.files.append(path)
        if listed is None:  # everything else has its hash in one of these
            announced = None if cached or path.is_symlink() else self._announced(name, path)
            if not is_as_announced(path, announced):
                raise CorruptArtifact(f"{path.name} does not match its hash")
        return path

    def _check_size(self, name: str, revision: str | None, listed: ArtifactFile | None) -> bool:
        """Whether the file is in the cache; of one that is not, the size is checked."""

        ahead: Any = hf_hub_download(self.repo, name, revision=revision, dry_run=True)
        if not ahead.will_download:
            return True
        size, weights = ahead.file_size or 0, name.endswith(".safetensors")
        most = MOST.get(name.rsplit("/", 1)[-1], MOST_PLAIN if weights else MOST_PICTURE)
        if listed is not None and ahead.file_size is not None and size != listed.bytes:
            raise CorruptArtifact(f"{name} has {size} bytes, the manifest says {listed.bytes}")
        if listed is None and size > most:
            raise CorruptArtifact(f"{name} has {size} bytes, such a file has {most} at most")
        Path(constants.HF_HUB_CACHE).mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(constants.HF_HUB_CACHE).free
        if size > free:
            raise HubError(
                f"{name} of {self.repo} has {size} bytes and the disk of the Hub's cache {free} free; make room"
            )
        return False

    def _announced(self, name: str, path: Path) -> str | None:
        """The hash of a file as the Hub's list says it, for caches that do not name files after it."""

        commit = path.parents[name.count("/")].name
        rows = HfApi().get_paths_info(self.repo, [name], revision=commit)
        return next((row.lfs.sha256 if row.lfs else row.blob_id for row in rows if isinstance(row, RepoFile)), None)

    def verified(self, work: Callable[[], Any]) -> Any:
        """The result of ``work``; what turns out to be damaged is not kept.

        What is not as it was announced was damaged on the way or in the cache, and is fetched once more.

        Raises:
            HubError: damaged, or what the client raised.
        """
        for again in (False, True):
            try:
                with reaching("pull from", self.repo):
                    return work()
            except CorruptArtifact as error:
                spoiled = not all(map(is_as_announced, self.files))
                for path in self.files:
                    forget(path)
                self.files.clear()
                if spoiled and not (again or self.offline):
                    continue
                raise HubError(
                    f"what came from {self.repo} is damaged and was not kept: ",
                    error,
                    "; pull again, or tell its author",
                ) from error


def wanted_files(manifest: Manifest, layouts: Sequence[str]) -> list[ArtifactFile]:
    """The files to fetch: the ones that are read, and those of further layouts.

    Raises:
        RequestError: no file is in a layout that was asked for.
    """
    there = {item.layout for item in manifest.files}
    for name in layouts:
        if name != ALL and name not in there:
            raise RequestError(f"it has no file in layout '{name}'; there are {', '.join(sorted(there))}")
    essential = set(manifest.essential)
    return [item for item in manifest.files if item in essential or item.layout in layouts or ALL in layouts]


def is_as_announced(path: Path, announced: str | None = None) -> bool:
    """Whether the bytes are those that the Hub announced; true as well where nobody can tell.

    Args:
        path: place in the cache.
        announced: SHA-256 or git id; by default the name of its blob, where the cache uses links.
    """
    blob = _blob(path)
    wanted = announced or (blob.name if blob is not None else "")
    if not _HASH.fullmatch(wanted):
        return True
    try:
        return PushFile(path.name, path).matches(wanted)
    except OSError:
        return False


def forget(path: Path) -> None:
    """Takes a cached file away, with the blob behind it; a shared blob only if its bytes are not those of its name."""
    blob = _blob(path)
    shared = blob.resolve() if blob is not None and blob.is_symlink() else None
    path.unlink(missing_ok=True)
    if blob is not None:
        blob.unlink(missing_ok=True)
    if shared is not None and in_shared_blobs(shared, Path(str(blob)).parent.parent.parent) and _is_damaged(shared):
        shared.unlink(missing_ok=True)


def _blob(path: Path) -> Path | None:
    """The entry of a cached file in its repository; None where the cache holds plain copies."""
    if not path.is_symlink():
        return None
    target = Path(os.path.normpath(path.parent.resolve() / os.readlink(path)))
    return target if target.parent.name == "blobs" else None


def _is_damaged(shared: Path) -> bool:
    """Whether a shared blob holds other bytes than its name says, as far as the xet library can tell."""
    try:
        from hf_xet import hash_files
    except ImportError:  # an older library: the file may be sound, and is fetched again then
        return True
    return shared.is_file() and str(hash_files([str(shared)])[0].hash) != shared.name
