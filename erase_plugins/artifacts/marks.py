"""Who is meant, without a name: HMAC-SHA256 under a key that lies in a file of its own and is in no ledger or log."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import tempfile
import unicodedata
from contextlib import suppress
from pathlib import Path

from erase_plugins.errors import ArtifactError, CorruptArtifact, RequestError

_BYTES = 32


def make_key(path: Path) -> bytes:
    """A new key from the system's entropy that only its owner may read; never in the place of another file.

    Raises:
        ArtifactError: something is there already, or nothing can be written.
    """
    key = secrets.token_bytes(_BYTES)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, work = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:  # made with rights for its owner alone
            file.write(key)
            file.flush()
            os.fsync(file.fileno())
        os.link(work, path)
    except FileExistsError as error:
        raise ArtifactError(f"'{path.name}' is there already; a key is never replaced") from error
    finally:
        with suppress(OSError):
            os.unlink(work)
    return key


def read_key(path: Path) -> bytes:
    """The key in a file.

    Raises:
        CorruptArtifact: missing, of another size, or readable by others.
    """
    try:
        found = path.stat()
        key = path.read_bytes()
    except OSError as error:
        raise CorruptArtifact(f"the key '{path.name}' is missing: nobody can be told from a name without it") from error
    if os.name != "nt" and found.st_mode & 0o077:
        raise CorruptArtifact(f"others may read the key '{path.name}': chmod 600 it, and ask who has read it")
    if len(key) != _BYTES:
        raise CorruptArtifact(f"'{path.name}' is no key of {_BYTES} bytes")
    return key


def mark(key: bytes, text: str) -> bytes:
    """The mark of one name; case, width and repeated spaces do not matter."""
    return hmac.new(key, canonical_name(text).encode(), hashlib.sha256).digest()


def canonical_name(name: str) -> str:
    """A name in the one form in which names are compared.

    Raises:
        RequestError: empty.
    """
    plain = " ".join(unicodedata.normalize("NFKC", name).casefold().split())
    if not plain:
        raise RequestError("the name of a subject is empty; write one name per line")
    return plain
