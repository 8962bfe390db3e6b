"""What rows of data come from: a folder, a .jsonl file, a forget set, a dataset, tensors in memory."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from erase_plugins.errors import MissingExtra, RequestError

if TYPE_CHECKING:
    from collections.abc import Callable

#: left by file managers and by Python; nobody misses them
LITTER = frozenset((".DS_Store", "Thumbs.db", "desktop.ini", "__pycache__"))
#: bytes of a file that are hashed at once
_CHUNK = 1 << 20


class Source:
    """What rows come from."""

    def digest(self) -> str:
        """SHA-256 of the content."""
        raise NotImplementedError

    def rows(self) -> Iterator[Mapping[str, Any]]:
        """The rows one after the other."""
        raise NotImplementedError

    def check_some(self) -> None:
        """Refuses what holds nothing, where that is seen without reading all of it."""


@dataclass(frozen=True)
class Folder(Source):
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
        """Stops at the first file."""
        if not any(True for _ in self._found()):
            raise self._empty()

    def _empty(self) -> RequestError:
        return RequestError(f"data '{self.name}' is empty: no files in the folder; put some there, or name another")

    def _unreadable(self, error: OSError) -> None:
        raise RequestError(f"data '{self.name}' cannot be read: {error.strerror}") from error

    def digest(self) -> str:
        """Of the sorted relative paths, each with the SHA-256 of its file."""
        total = hashlib.sha256()
        for relative, path in self.files():
            inner = bytes.fromhex(_file_hash(self.name, path))
            total.update(relative.encode("utf-8", "surrogateescape") + b"\0" + inner + b"\0")
        return total.hexdigest()

    def rows(self) -> Iterator[Mapping[str, Any]]:
        """The "path" and "label" of every file, the label being the first folder below."""
        for relative, path in self.files():
            first, _, rest = relative.partition("/")
            yield {"path": path, "label": first if rest else ""}


@dataclass(frozen=True)
class Lines(Source):
    """A file with one JSON object a line."""

    name: str
    path: Path

    def digest(self) -> str:
        """Of the bytes of the file."""
        self.check_some()
        return _file_hash(self.name, self.path)

    def check_some(self) -> None:
        """Stops at the first line."""
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
        """The objects of the lines."""
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
class SetFile(Source):
    """A file with one JSON object, such as a forget set."""

    name: str
    path: Path

    def digest(self) -> str:
        """Of the bytes of the file."""
        return _file_hash(self.name, self.path)

    def rows(self) -> Iterator[Mapping[str, Any]]:
        """The one object."""
        try:
            found = json.loads(self.path.read_text(encoding="utf-8-sig"))
        except (OSError, ValueError, RecursionError) as error:
            raise RequestError(f"data '{self.name}' is no JSON file that can be read") from error
        if not isinstance(found, dict):
            raise RequestError(f"data '{self.name}' is no forget set; worst-case writes some")
        yield found


@dataclass(frozen=True)
class Held(Source):
    """Tensors in memory."""

    sha256: str
    pictures: Any
    labels: Any

    def digest(self) -> str:
        """The hash by which they are held."""
        return self.sha256

    def rows(self) -> Iterator[Mapping[str, Any]]:
        """The "image" and "label" of every picture."""
        for picture, label in zip(self.pictures, self.labels.tolist(), strict=True):
            yield {"image": picture, "label": label}


@dataclass(frozen=True)
class Dataset(Source):
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
        """Of the rows in their order, pictures and sound as the bytes of their files."""
        table, total = self._open(), hashlib.sha256()
        for column in table.column_names:  # pictures and sound as the bytes of their files
            if hasattr(table.features[column], "decode"):
                table = table.cast_column(column, replace(table.features[column], decode=False))
        for row in table:
            text = json.dumps(row, sort_keys=True, default=_canonical, ensure_ascii=False)
            total.update(hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest())
        return total.hexdigest()

    def rows(self) -> Iterator[Mapping[str, Any]]:
        """The rows of the split."""
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
