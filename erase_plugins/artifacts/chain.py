"""Append-only JSON lines in which every line holds the SHA-256 of the one before: a change anywhere breaks the chain.

The last lines can be cut off, and all lines can be written anew by whoever holds the file. Against that stands the hash
of the last line, kept somewhere else (in a certificate, on a published page).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from erase_plugins.artifacts.atomic import atomic_file
from erase_plugins.artifacts.strict_json import parse
from erase_plugins.errors import CorruptArtifact

#: stands for the line before the first
START = "0" * 64
#: a longer file is none of ours
MOST_BYTES = 500_000_000


def canonical(body: Mapping[str, Any]) -> str:
    """The one JSON text of a mapping: sorted names, no spaces, ASCII.

    Raises:
        ValueError: NaN or infinity in it.
    """
    return json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False)


def linked(bodies: Iterable[Mapping[str, Any]], head: str = START) -> list[dict[str, Any]]:
    """The bodies as entries that follow the entry with the hash ``head``."""
    entries: list[dict[str, Any]] = []
    for body in bodies:
        digest = hashlib.sha256(f"{head}\n{canonical(body)}".encode()).hexdigest()
        entries.append({**body, "prev": head, "hash": digest})
        head = digest
    return entries


def text(entries: Iterable[Mapping[str, Any]]) -> str:
    """The entries as lines."""
    return "".join(f"{canonical(item)}\n" for item in entries)


def head_of(entries: Sequence[Mapping[str, Any]]) -> str:
    """Hash of the last entry."""
    return str(entries[-1]["hash"]) if entries else START


def parsed(content: bytes) -> list[dict[str, Any]]:
    """The entries of a file's content, every link checked.

    Raises:
        CorruptArtifact: names the first line that does not fit.
    """
    entries: list[dict[str, Any]] = []
    head = START
    lines = content.split(b"\n")
    if lines.pop() != b"":
        raise CorruptArtifact("the last line of the ledger has no end; somebody cut or changed it")
    for number, raw in enumerate(lines, 1):
        try:
            entry = parse(raw.decode("ascii"))
            body = {name: value for name, value in entry.items() if name not in ("prev", "hash")}
            wanted = linked([body], head)[0]
            fits = canonical(wanted).encode() == raw
        except (UnicodeDecodeError, ValueError, AttributeError, TypeError, RecursionError) as error:
            raise CorruptArtifact(f"line {number} of the ledger is not one of ours") from error
        if not fits:
            reason = "does not follow the line before it" if entry.get("prev") != head else "was changed"
            raise CorruptArtifact(f"line {number} of the ledger {reason}; it proves nothing any more")
        entries.append(wanted)
        head = wanted["hash"]
    return entries


def read(path: Path) -> list[dict[str, Any]]:
    """The entries of a file; none if it is not there.

    Raises:
        CorruptArtifact: a line does not fit, or the file cannot be read.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise CorruptArtifact(f"'{path.name}' has {path.stat().st_size} bytes; not a ledger")
        return parsed(path.read_bytes())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise CorruptArtifact(f"'{path.name}' cannot be read: {error.strerror}") from error


def write(path: Path, entries: Iterable[Mapping[str, Any]]) -> None:
    """Puts the entries, old and new, in the place of the file in one step. The caller holds the lock."""
    with atomic_file(path) as work:
        work.write_text(text(entries), encoding="ascii")
