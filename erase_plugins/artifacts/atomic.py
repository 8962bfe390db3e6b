"""Writes that are complete or absent: a hidden name beside the target, flushed, then put in its place in one step."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from erase_plugins.artifacts.locks import claim
from erase_plugins.artifacts.manifest import FILENAME
from erase_plugins.artifacts.places import (
    ARTIFACT,
    COLLECTION,
    FILE,
    INDEX,
    MARKER,
    check_place,
    is_litter,
    mark,
    walk,
    written_files,
)


@contextmanager
def atomic_folder(target: Path, force: bool = False, kind: str = ARTIFACT) -> Iterator[Path]:
    """A fresh folder that becomes ``target`` when the with-block ends well, and vanishes otherwise.

    Args:
        target: the folder.
        force: replace a folder of the same kind, if this program wrote everything in it.
        kind: what is written. A folder without manifest or index gets a marker that lists its files; with an empty
            kind it gets none, and is from then on the user's.

    Raises:
        ArtifactError: ``target`` may not be written; see `erase_plugins.artifacts.places.check_place`.
    """
    with claim(target, force, kind):
        _recover(target)
        work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
        try:
            yield work
            if not (kind == ARTIFACT and (work / FILENAME).is_file()) and kind not in ("", COLLECTION):
                mark(work, kind)
            work.chmod(0o755)
            check_place(target, force, kind)  # it may have come to be meanwhile
            if target.exists():
                _replace(work, target)
            else:
                _rename(work, target)
        finally:
            shutil.rmtree(work, ignore_errors=True)


@contextmanager
def atomic_file(target: Path, force: bool | None = None) -> Iterator[Path]:
    """A temporary path beside ``target`` that replaces it when the with-block ends well.

    Args:
        target: the file.
        force: whether a file with this program's stamp may be replaced; None for files inside of what is ours anyway.

    Raises:
        ArtifactError: ``target`` may not be written.
    """
    if force is not None:
        with claim(target, force, FILE):
            _recover(target)
            with atomic_file(target) as work:
                yield work
                check_place(target, force, FILE)  # it may have come to be meanwhile
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
    os.close(handle)
    work = Path(name)
    try:
        yield work
        with work.open("rb+") as file:
            os.fsync(file.fileno())
        work.chmod(0o644)
        _rename(work, target)
    finally:
        work.unlink(missing_ok=True)


def remove_written(folder: Path, known: Mapping[str, str | None]) -> None:
    """Removes the known files of a folder and the folders that are empty then; anything else stays."""
    records = (MARKER, INDEX, FILENAME)  # last: a killed run must not leave files that nobody knows
    for path in sorted(walk(folder), key=lambda item: (item.name in records, -len(item.parts))):
        name = path.relative_to(folder).as_posix()
        if (name in known or is_litter(name)) and not path.is_dir():
            with suppress(OSError):
                path.unlink()
    for place, _, _ in os.walk(folder, topdown=False):
        with suppress(OSError):
            os.rmdir(place)


def _replace(work: Path, target: Path) -> None:
    """Puts ``work`` in the place of an existing folder; at every moment one of the two is there."""
    known = written_files(target)[1]
    old = work.with_suffix(".old")
    if _exchange(work, target):
        os.rename(work, old)
    else:
        _rename(target, old)  # killed here, the next run puts it back
        _rename(work, target)
    remove_written(old, known)


def _exchange(first: Path, second: Path) -> bool:
    """Swaps two folders in one step, where the system can."""
    names = os.fsencode(first), os.fsencode(second)
    try:
        library = ctypes.CDLL(None, use_errno=True)
        if sys.platform == "darwin":
            return bool(library.renamex_np(*names, 2) == 0)
        here = -100  # AT_FDCWD: paths as they are
        return bool(library.renameat2(here, names[0], here, names[1], 2) == 0)
    except (AttributeError, OSError, TypeError):
        return False


def _recover(target: Path) -> None:
    """What a killed run left: the folder that it was about to replace comes back, its temporary files go."""
    pattern = re.compile(re.escape(f".{target.name}.") + r"[a-z0-9_]{8}\.(tmp|old)")
    for path in [item for item in target.parent.iterdir() if pattern.fullmatch(item.name)]:
        if path.suffix == ".old" and not os.path.lexists(target):
            os.rename(path, target)
        elif path.suffix == ".old":
            remove_written(path, written_files(path)[1])
        elif path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _rename(source: Path, target: Path) -> None:
    for attempt in range(4):
        try:
            os.replace(source, target)
            return
        except PermissionError:  # virus scanners hold fresh files for a moment
            if attempt == 3:
                raise
            time.sleep(0.2 * 2**attempt)
