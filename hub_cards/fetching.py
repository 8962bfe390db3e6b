"""Single files into the client's cache: sizes before bytes, hashes after, and nothing damaged is kept."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url
from huggingface_hub.utils import tqdm

from erase_plugins.artifacts.links import forget, is_as_announced
from erase_plugins.artifacts.manifest import FILENAME, ArtifactFile
from erase_plugins.artifacts.places import INDEX
from erase_plugins.artifacts.store import MOST_MANIFEST_BYTES
from erase_plugins.errors import CorruptArtifact, HubError
from erase_plugins.workflow.collection import MOST_INDEX_BYTES
from hub_cards.errors import reaching

#: is told (bytes that came, bytes of the file)
Tell = Callable[[int, int], None]
#: bytes of what has no hash in a manifest: the manifest itself, an index, a LoRA file of a repository without manifest,
#: a picture of a page
MOST = {FILENAME: MOST_MANIFEST_BYTES, INDEX: MOST_INDEX_BYTES}
MOST_PLAIN, MOST_PICTURE = 8_000_000_000, 50_000_000


@contextmanager
def telling(tell: Tell | None) -> Iterator[dict[str, Any]]:
    """Arguments that make the client tell of one download in the with-block. What ``tell`` raises ends the download.

    The xet library calls from a thread of its own, ignores what is raised there and goes on to the end of the file; its
    session is cancelled then, as the client does it for Ctrl-C.
    """
    here, raised = threading.get_ident(), list[BaseException]()

    def heard(done: int, total: int) -> None:
        if tell is None or raised:
            return
        try:
            tell(done, total)
        except BaseException as error:
            raised.append(error)
            if threading.get_ident() != here:
                threading.Thread(target=_cancel, daemon=True).start()
            raise

    try:
        yield {} if tell is None else {"tqdm_class": partial(Bar, heard)}
    finally:
        if raised:
            raise raised[0] from None


def _cancel() -> None:
    with suppress(Exception):  # a client without it: the download ends with the file
        from huggingface_hub.utils._xet import abort_xet_session

        abort_xet_session()


class Bar(tqdm):
    """A bar of the client that shows nothing and tells instead.

    Args:
        tell: called after every part.
        total, initial: bytes of the file, and how many are there from an earlier try.
    """

    def __init__(self, tell: Tell, total: float | None = None, initial: float = 0, **_: Any) -> None:
        super().__init__(disable=True)
        self.tell, self.n, self.total = tell, int(initial), int(total or 0)

    def update(self, count: float = 1) -> None:
        self.n += int(count)
        self.tell(self.n, max(self.total, self.n))


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
        """The hash of a file as the Hub says it, for caches that do not name files after it."""
        commit = path.parents[name.count("/")].name
        return get_hf_file_metadata(hf_hub_url(self.repo, name, revision=commit)).etag

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
