"""Data of a request by reference: where it is, which part of it, and the hash that says it is still the same."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from erase_plugins.errors import MissingExtra, RequestError
from erase_plugins.record import Record

if TYPE_CHECKING:
    from collections.abc import Callable

#: what a `datasets` dataset starts with; the rest is a Hub name or a folder that `save_to_disk` wrote
SCHEME = "datasets:"
#: what data that lie in the memory of this process start with; the rest is the hash of their content
IN_MEMORY = "memory:"
#: hash -> (pictures, labels) of `DataRef.held`
_HELD: dict[str, tuple[Any, Any]] = {}
#: left by file managers and by Python; nobody misses them
LITTER = frozenset((".DS_Store", "Thumbs.db", "desktop.ini", "__pycache__"))
_HASH = re.compile(r"[0-9a-f]{64}")
#: bytes of a file that are hashed at once
_CHUNK = 1 << 20


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

    def _source(self) -> _Folder | _Lines | _Dataset | _Set | _Held:
        if (tensors := self.tensors()) is not None:
            return _Held(self.uri.removeprefix(IN_MEMORY), *tensors)
        if self.uri.startswith(SCHEME):
            return _Dataset(self.name, self.uri.removeprefix(SCHEME), self.split)
        path = Path(self.uri).expanduser()
        if not path.exists():
            raise RequestError(f"no data at '{self.name}'; give a folder, a .jsonl file or datasets:NAME")
        if path.is_dir() and (path / "dataset_info.json").is_file():
            return _Dataset(self.name, str(path), self.split)
        if path.is_dir():
            if self.fields:
                raise RequestError(f"data '{self.name}' is a folder of files, which have no fields; leave fields out")
            return _Folder(self.name, self._subfolder(path))
        if path.suffix.lower() == ".json" and path.is_file():
            return _Set(self.name, path)
        if path.suffix.lower() != ".jsonl" or not path.is_file():
            raise RequestError(f"data '{self.name}' is neither a folder nor a .jsonl file; convert it to one of them")
        if self.split:
            raise RequestError(f"data '{self.name}' is one file without splits; leave split out")
        return _Lines(self.name, path)

    def _subfolder(self, path: Path) -> Path:
        inner = path / self.split
        if not inner.is_dir() or not inner.resolve().is_relative_to(path.resolve()):
            there = sorted(item.name for item in path.iterdir() if item.is_dir())[:8]
            raise RequestError(
                f"data '{path.name}' has no split '{self.split}'; there are {', '.join(there) or 'none'}"
            )
        return inner


class _Source:
    """What rows come from."""

    def check_some(self) -> None:
        """Refuses what holds nothing, where that is seen without reading all of it."""


@dataclass(frozen=True)
class _Folder(_Source):
    """All files below a folder but hidden ones and those that a file manager left there."""

    name: str
    path: Path

    def files(self) -> list[tuple[str, Path]]:
        """(relative path with /, path) in the order of the relative paths."""
        found = list(self._found())
        if not found:
            raise self._empty()
        return sorted(found)

    def _found(self) -> Iterator[tuple[str, Path]]:
        root = self.path.resolve()
        for top, folders, names in os.walk(self.path, onerror=self._unreadable):
            folders[:] = [item for item in folders if not item.startswith(".")]
            links = [item for item in folders if (Path(top) / item).is_symlink()]
            if links:
                raise RequestError(f"data '{self.name}': {links[0]} is a link to a folder; put the files there instead")
            for path in (Path(top) / item for item in names if not item.startswith(".") and item not in LITTER):
                if path.is_symlink() and not path.resolve().is_relative_to(root):
                    raise RequestError(f"data '{self.name}': {path.name} is a link that leaves the folder; copy it")
                if not path.is_file():
                    raise RequestError(f"data '{self.name}': {path.name} is no file that can be read")
                yield path.relative_to(self.path).as_posix(), path

    def check_some(self) -> None:
        if not any(True for _ in self._found()):
            raise self._empty()

    def _empty(self) -> RequestError:
        return RequestError(f"data '{self.name}' is empty: no files in the folder; put some there, or name another")

    def _unreadable(self, error: OSError) -> None:
        raise RequestError(f"data '{self.name}' cannot be read: {error.strerror}") from error

    def digest(self) -> str:
        total = hashlib.sha256()
        for relative, path in self.files():
            inner = bytes.fromhex(_file_hash(self.name, path))
            total.update(relative.encode("utf-8", "surrogateescape") + b"\0" + inner + b"\0")
        return total.hexdigest()

    def rows(self) -> Iterator[Mapping[str, Any]]:
        for relative, path in self.files():
            first, _, rest = relative.partition("/")
            yield {"path": path, "label": first if rest else ""}


@dataclass(frozen=True)
class _Lines(_Source):
    """A file with one JSON object a line."""

    name: str
    path: Path

    def digest(self) -> str:
        self.check_some()
        return _file_hash(self.name, self.path)

    def check_some(self) -> None:
        if not any(True for _ in self._lines()):
            raise self._empty()

    def _empty(self) -> RequestError:
        return RequestError(f"data '{self.name}' is empty: no line in the file; write some, or name another")

    def _lines(self) -> Iterator[tuple[int, str]]:
        try:
            with self.path.open(encoding="utf-8-sig") as file:
                yield from ((number, line) for number, line in enumerate(file, 1) if line.strip())
        except UnicodeDecodeError as error:
            raise RequestError(
                f"data '{self.name}' is not UTF-8 text; save it as UTF-8, one JSON object a line"
            ) from error
        except OSError as error:
            raise RequestError(f"data '{self.name}' cannot be read: {error.strerror}") from error

    def rows(self) -> Iterator[Mapping[str, Any]]:
        empty = True
        for number, line in self._lines():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            if not isinstance(row, dict):
                raise RequestError(f"data '{self.name}', line {number} is not a JSON object")
            empty = False
            yield row
        if empty:
            raise self._empty()


@dataclass(frozen=True)
class _Set(_Source):
    """A file with one JSON object, such as a forget set."""

    name: str
    path: Path

    def digest(self) -> str:
        return _file_hash(self.name, self.path)

    def rows(self) -> Iterator[Mapping[str, Any]]:
        try:
            found = json.loads(self.path.read_text(encoding="utf-8-sig"))
        except (OSError, ValueError, RecursionError) as error:
            raise RequestError(f"data '{self.name}' is no JSON file that can be read") from error
        if not isinstance(found, dict):
            raise RequestError(f"data '{self.name}' is no forget set; worst-case writes some")
        yield found


@dataclass(frozen=True)
class _Held(_Source):
    """Tensors in memory."""

    sha256: str
    pictures: Any
    labels: Any

    def digest(self) -> str:
        return self.sha256

    def rows(self) -> Iterator[Mapping[str, Any]]:
        for picture, label in zip(self.pictures, self.labels.tolist(), strict=True):
            yield {"image": picture, "label": label}


@dataclass(frozen=True)
class _Dataset(_Source):
    """A dataset of the package `datasets`, from the Hub or from a folder that ``save_to_disk`` wrote."""

    name: str
    place: str
    split: str

    def _open(self) -> Any:
        try:
            import datasets
        except ImportError as error:
            raise MissingExtra(f"data '{self.name}'", "data") from error
        local = self._local()
        load: Callable[[str], Any] = datasets.load_from_disk if local else datasets.load_dataset
        try:
            found = load(self.place)
        except (OSError, ValueError, ConnectionError) as error:
            reason = type(error).__name__ if local else str(error).splitlines()[0][:200]
            raise RequestError(f"data '{self.name}' cannot be opened by datasets: {reason}") from error
        if isinstance(found, Mapping):  # several splits
            if self.split not in found:
                raise RequestError(f"data '{self.name}' has no split '{self.split}'; there are {', '.join(found)}")
            found = found[self.split]
        elif self.split and str(found.split) != self.split:
            raise RequestError(f"data '{self.name}' has no split '{self.split}'; it is one table, leave split out")
        if not len(found):
            raise RequestError(f"data '{self.name}' is empty: the dataset has no rows")
        return found

    def check_some(self) -> None:
        """Opened where it is on this machine; a plan downloads nothing."""
        if self._local():
            self._open()

    def _local(self) -> bool:
        return Path(self.place).expanduser().is_dir()

    def digest(self) -> str:
        table, total = self._open(), hashlib.sha256()
        for column in table.column_names:  # pictures and sound as the bytes of their files
            if hasattr(table.features[column], "decode"):
                table = table.cast_column(column, replace(table.features[column], decode=False))
        for row in table:
            text = json.dumps(row, sort_keys=True, default=_canonical, ensure_ascii=False)
            total.update(hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest())
        return total.hexdigest()

    def rows(self) -> Iterator[Mapping[str, Any]]:
        yield from self._open()


def _canonical(value: object) -> str:
    return hashlib.sha256(value).hexdigest() if isinstance(value, bytes) else str(value)


def _file_hash(name: str, path: Path) -> str:
    total = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                total.update(chunk)
    except OSError as error:
        raise RequestError(f"data '{name}': {path.name} cannot be read: {error.strerror}") from error
    return total.hexdigest()
