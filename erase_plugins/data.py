"""Data of a request by reference: where it is, which part of it, and the hash that says it is still the same."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from erase_plugins.data_sources import Dataset, Folder, Held, Lines, SetFile, Source
from erase_plugins.errors import RequestError
from erase_plugins.record import Record

#: what a `datasets` dataset starts with; the rest is a Hub name or a folder that `save_to_disk` wrote
SCHEME = "datasets:"
#: what data that lie in the memory of this process start with; the rest is the hash of their content
IN_MEMORY = "memory:"
#: hash -> (pictures, labels) of `DataRef.held`
_HELD: dict[str, tuple[Any, Any]] = {}
_HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class DataRef(Record):
    """Data by reference: a folder of files, a .jsonl file, or a dataset of the package `datasets`.

    Nothing is read until `digest`, `pinned` or `rows` is called. `held` refers to tensors in memory.

    Attributes:
        uri: a folder, a .jsonl file, a forget set (.json, see `erase_plugins.families.forget_set`), or "datasets:NAME"
            with a Hub name or a folder written by ``save_to_disk``.
        split: of a folder the subfolder that is meant, of a dataset its split; a .jsonl file has none.
        fields: names of the fields of a row that are read; all if empty. A folder has none.
        sha256: hash of the content when it was first read; "" until then. `rows` refuses data that changed since.

    Raises:
        RequestError: a field is of the wrong form.
    """

    uri: str
    split: str = ""
    fields: tuple[str, ...] = ()
    sha256: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.uri, str) or not self.uri.removeprefix(SCHEME).strip() or "\0" in self.uri:
            raise RequestError("the data has no place; give a folder, a .jsonl file or datasets:NAME")
        if not isinstance(self.split, str) or not all(isinstance(name, str) for name in self.fields):
            raise RequestError(f"data '{self.name}': split is a text, fields are a list of texts")
        if self.sha256 and not (isinstance(self.sha256, str) and _HASH.fullmatch(self.sha256)):
            raise RequestError(f"data '{self.name}': the SHA-256 is not one; leave it out to take what is there")

    @classmethod
    def held(cls, pictures: Any, labels: Any) -> DataRef:
        """Tensors in memory as data, for this process only.

        Args:
            pictures: (n, channels, height, width): bytes, or floats as the network takes them.
            labels: (n,) numbers of classes.

        Raises:
            RequestError: none, or not one label per picture.
        """
        if len(pictures) != len(labels) or not len(labels):
            raise RequestError(f"{len(pictures)} pictures and {len(labels)} labels; give one label per picture")
        total = hashlib.sha256(f"{pictures.dtype} {tuple(pictures.shape)}".encode())
        for part in (pictures, labels):
            total.update(part.detach().cpu().contiguous().numpy().tobytes())
        key = total.hexdigest()
        _HELD[key] = (pictures, labels)
        return cls(f"{IN_MEMORY}{key}", sha256=key)

    def tensors(self) -> tuple[Any, Any] | None:
        """Pictures and labels that `held` was given; None for other data.

        Raises:
            RequestError: they were in the memory of another process.
        """
        if not self.uri.startswith(IN_MEMORY):
            return None
        found = _HELD.get(self.uri.removeprefix(IN_MEMORY))
        if found is None:
            raise RequestError(f"data '{self.name}' was in the memory of another process; give it again")
        return found

    @property
    def name(self) -> str:
        """How messages and manifests call it, without the user's folders."""
        if self.uri.startswith(IN_MEMORY):
            return self.uri[: len(IN_MEMORY) + 12]
        if self.remote:
            return self.uri
        shown = re.split(r"[/\\]", self.uri.removeprefix(SCHEME).rstrip("/\\"))[-1]
        return f"{shown} ({self.split})" if self.split else shown

    @property
    def remote(self) -> bool:
        """Whether it is a Hub name, which says nothing about this machine."""
        place = self.uri.removeprefix(SCHEME)
        return self.uri.startswith(SCHEME) and place.count("/") < 2 and place[0] not in "./~" and "\\" not in place

    @property
    def place(self) -> tuple[str, str]:
        """Equal for two references to the same data."""
        return self.uri.rstrip("/"), self.split

    def public(self) -> DataRef:
        """The same without the user's folders, for manifests and cards."""
        return self if self.remote else replace(self, uri=re.split(r"[/\\]", self.uri.rstrip("/\\"))[-1])

    def digest(self) -> str:
        """SHA-256 of the content, read once and never held in memory.

        Of a folder: the sorted relative paths, each with the SHA-256 of its file, so that neither the order on disk nor
        times nor the folder's own name matter. Of a .jsonl file: its bytes. Of a dataset: its rows in their order.

        Raises:
            RequestError: missing, empty, unreadable, or a link that leaves the folder.
            MissingExtra: it needs the package `datasets`.
        """
        return self._source().digest()

    def present(self) -> None:
        """Looks whether something of the right form is at its place, and not nothing; at most one row of it is read.

        Raises:
            RequestError: nothing, something else, or an empty folder or file.
        """
        self._source().check_some()

    def pinned(self) -> DataRef:
        """The same with its hash.

        Raises:
            RequestError: as for `digest`, or it has a hash already and the content differs from it.
        """
        found = self.digest()
        if self.sha256 and found != self.sha256:
            raise RequestError(
                f"data '{self.name}' changed: its hash was {self.sha256[:12]}, now it is {found[:12]}; bring the old "
                "content back, or leave the hash out to take what is there"
            )
        return replace(self, sha256=found)

    def rows(self) -> Iterator[Mapping[str, Any]]:
        """The rows one after the other.

        Of a folder: "path" and "label" (the first folder below, "" if there is none) of every file, in the order of
        their relative paths. Of a .jsonl file and of a dataset: their fields.

        Raises:
            RequestError: as for `pinned` (before the first row), a broken line, or a field that a row does not have.
        """
        source = self._source()
        if self.sha256:
            self.pinned()
        for number, row in enumerate(source.rows(), 1):
            lacking = [name for name in self.fields if name not in row]
            if lacking:
                raise RequestError(
                    f"data '{self.name}', row {number} has no field '{lacking[0]}'; it has {', '.join(map(str, row))}"
                )
            yield {name: row[name] for name in self.fields} if self.fields else row

    def _source(self) -> Source:
        if (tensors := self.tensors()) is not None:
            return Held(self.uri.removeprefix(IN_MEMORY), *tensors)
        if self.uri.startswith(SCHEME):
            return Dataset(self.name, self.uri.removeprefix(SCHEME), self.split)
        path = Path(self.uri).expanduser()
        if not path.exists():
            raise RequestError(f"no data at '{self.name}'; give a folder, a .jsonl file or datasets:NAME")
        if path.is_dir() and (path / "dataset_info.json").is_file():
            return Dataset(self.name, str(path), self.split)
        if path.is_dir():
            if self.fields:
                raise RequestError(f"data '{self.name}' is a folder of files, which have no fields; leave fields out")
            return Folder(self.name, self._subfolder(path))
        if path.suffix.lower() == ".json" and path.is_file():
            return SetFile(self.name, path)
        if path.suffix.lower() != ".jsonl" or not path.is_file():
            raise RequestError(f"data '{self.name}' is neither a folder nor a .jsonl file; convert it to one of them")
        if self.split:
            raise RequestError(f"data '{self.name}' is one file without splits; leave split out")
        return Lines(self.name, path)

    def _subfolder(self, path: Path) -> Path:
        inner = path / self.split
        if not inner.is_dir() or not inner.resolve().is_relative_to(path.resolve()):
            there = sorted(item.name for item in path.iterdir() if item.is_dir())[:8]
            raise RequestError(
                f"data '{path.name}' has no split '{self.split}'; there are {', '.join(there) or 'none'}"
            )
        return inner
