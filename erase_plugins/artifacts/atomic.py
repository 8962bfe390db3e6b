"""Writes that are complete or absent: a temporary name beside the target, flushed, then renamed."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from erase_plugins.errors import ArtifactError


@contextmanager
def atomic_folder(target: Path, force: bool = False) -> Iterator[Path]:
    """A fresh folder that becomes ``target`` when the with-block ends well, and vanishes otherwise.

    Raises:
        ArtifactError: ``target`` exists and ``force`` is not set.
    """
    refuse_existing(target, force)
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
    try:
        yield work
        work.chmod(0o755)
        old = None
        if target.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".old", dir=target.parent))
            _rename(target, old / "was")
        _rename(work, target)
        if old is not None:
            shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(work, ignore_errors=True)


@contextmanager
def atomic_file(target: Path, force: bool = True) -> Iterator[Path]:
    """A temporary path beside ``target`` that replaces it when the with-block ends well.

    Raises:
        ArtifactError: ``target`` exists and ``force`` is not set.
    """
    refuse_existing(target, force)
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


def refuse_existing(target: Path, force: bool) -> None:
    """Raises `ArtifactError` if ``target`` exists and may not be replaced."""
    if target.exists() and not force:
        raise ArtifactError(f"'{target.name}' exists already; choose another --out or pass --force to replace it")


def _rename(source: Path, target: Path) -> None:
    for attempt in range(4):
        try:
            os.replace(source, target)
            return
        except PermissionError:  # virus scanners hold fresh files for a moment
            if attempt == 3:
                raise
            time.sleep(0.2 * 2**attempt)
