"""One writer per place: a lock beside the target, taken before the work and gone with the process that holds it.

The lock file is removed at the end, which lock libraries leave to their users: whoever gets a lock on a file that was
removed in the meantime notices it and tries again.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from erase_plugins.artifacts.places import ARTIFACT, FILE, check_place
from erase_plugins.errors import ArtifactError
from erase_plugins.hints import ANOTHER_OUT

_BUSY = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)
_held = threading.local()


@contextmanager
def claim(target: Path, force: bool = False, kind: str = ARTIFACT) -> Iterator[None]:
    """The right to write ``target``, for the length of a with-block; refused at once, before any work.

    Args:
        target, force, kind: as for `erase_plugins.artifacts.places.check_place`.

    Raises:
        ArtifactError: something is in the way, or somebody else is writing there.
    """
    check_place(target, force, kind)
    with locked(target):
        yield


@contextmanager
def claim_files(folder: Path, names: Iterable[str], force: bool) -> Iterator[None]:
    """The right to write these files in a folder that may hold other things, which stay.

    Raises:
        ArtifactError: as for `claim`.
    """
    with ExitStack() as claims:
        for name in names:
            claims.enter_context(claim(folder / name, force, FILE))
        yield


@contextmanager
def locked(target: Path, patience: float = 0.0) -> Iterator[None]:
    """Keeps other processes and threads from writing ``target``; a thread may take the same lock again.

    Args:
        target: what is written.
        patience: seconds to wait for somebody else who is writing it.

    Raises:
        ArtifactError: another run holds it, or nothing can be written there.
    """
    key = os.path.abspath(target)
    target = Path(key)
    mine = _held.__dict__.setdefault("keys", set())
    if key in mine or _follows():
        yield
        return
    made: list[Path] = []
    try:
        made += _make(target.parent)
        path = target.parent / f".{target.name}.lock"
        handle = _take(path, target.name, time.monotonic() + patience)
    except OSError as error:
        _unmake(made)
        raise ArtifactError(f"'{target.name}' cannot be written: {error.strerror}; choose ", ANOTHER_OUT) from error
    except BaseException:
        _unmake(made)
        raise
    mine.add(key)
    try:
        yield
    finally:
        mine.discard(key)
        if os.name != "nt":  # elsewhere an open file cannot be removed
            path.unlink(missing_ok=True)
        os.close(handle)
        if os.name == "nt":
            with suppress(OSError):
                path.unlink(missing_ok=True)
        _unmake(made)


def _take(path: Path, name: str, until: float) -> int:
    """Handle of the locked lock file; one that a dead process left behind is as good as a new one."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644)
        try:
            _lock(handle)
            if os.path.samestat(os.fstat(handle), os.stat(path)):
                return handle
        except FileNotFoundError:
            pass  # its holder has just removed it
        except OSError as error:
            os.close(handle)
            if error.errno in _BUSY and time.monotonic() < until:
                time.sleep(0.05)
                continue
            if error.errno in _BUSY:
                raise ArtifactError(
                    f"'{name}' is being written by another run; wait for it or choose ", ANOTHER_OUT
                ) from error
            raise
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _lock(handle: int) -> None:
    if os.name == "nt":
        import msvcrt

        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
        return
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK):
            raise  # a file system without locks: the check before the final rename remains


def _follows() -> bool:
    """Whether this process shares a run whose main process does the writing (see `engine.distributed`)."""
    return os.getenv("WORLD_SIZE", "1") != "1" and os.getenv("RANK", "0") != "0"


def _make(folder: Path) -> list[Path]:
    """Makes a folder and those above it; returns the new ones, innermost last."""
    missing = [item for item in (folder, *folder.parents) if not item.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing[::-1]


def _unmake(folders: list[Path]) -> None:
    """Takes away the folders that were made for the lock and stayed empty."""
    for folder in reversed(folders):
        with suppress(OSError):
            folder.rmdir()
