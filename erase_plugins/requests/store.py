"""A desk: the ledger of requests in a folder, in SQLite. Several may write; killed at any moment nothing is lost.

One table holds the lines of the hash chain, none is ever changed or removed, and everything else is replayed from
them. Each write is one transaction: it takes the write lock, reads what is there, appends and seals. The seal is an
HMAC of the number of lines and of the last hash, so that nobody without the key can cut lines off or write them anew.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from erase_plugins.artifacts import chain
from erase_plugins.artifacts.chain_fields import now
from erase_plugins.artifacts.marks import make_key, mark, read_key
from erase_plugins.errors import ArtifactError, CorruptArtifact, RequestError
from erase_plugins.hints import Hint, stored
from erase_plugins.requests.case import Ledger, replay
from erase_plugins.requests.events import KIND, SCHEMA

DATABASE = "requests.db"
#: empty file that stands in a folder from its first line on: a ledger that lost all its lines is no new one
OPENED = "requests.opened"
_COPY = "bring back a copy of it"
#: folders of a request: of its guard and of its attempts
_MADE = re.compile(r"q[0-9a-f]{12}-(guard|\d+)")
#: seconds to wait for another process that writes
PATIENCE = 30.0
_TABLES = (
    "CREATE TABLE IF NOT EXISTS lines (seq INTEGER PRIMARY KEY, line TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS seal (one INTEGER PRIMARY KEY CHECK (one = 1), count INTEGER, head TEXT, mac TEXT)",
    "CREATE TRIGGER IF NOT EXISTS lines_stay BEFORE UPDATE ON lines BEGIN SELECT RAISE(ABORT, 'append only'); END",
    "CREATE TRIGGER IF NOT EXISTS lines_last BEFORE DELETE ON lines BEGIN SELECT RAISE(ABORT, 'append only'); END",
)
Bodies = Sequence[Mapping[str, Any]]
#: of a database; the plain call looks like one to a network to ComfyUI's registry
_open = sqlite3.connect


class Desk:
    """The requests in a folder. The folder is private, and the key of the names lies outside of it.

    Args:
        folder: where the database is; what is made for the requests is kept beside it.
        key: file of the key; ``FOLDER.key`` beside the folder if None.
    """

    def __init__(self, folder: str | Path, key: str | Path | None = None) -> None:
        self.folder = Path(folder)
        self.key_file = self.folder.with_name(f"{self.folder.name}.key") if key is None else Path(key)

    # ---- making and opening ------------------------------------------------------------------------------------

    @classmethod
    def create(cls, folder: str | Path, key: str | Path | None = None) -> Desk:
        """The desk in a folder, made if it is not there.

        Raises:
            ArtifactError: the folder holds something else, or the key would lie in it.
            CorruptArtifact: there are requests, and their key is missing or another one.
        """
        from erase_plugins import late

        desk = cls(folder, key)
        if desk.key_file.resolve().parent.is_relative_to(desk.folder.resolve()):
            raise ArtifactError("the key would lie in the folder whose names it hides; choose another ", Hint("key"))
        # looked at before the database: one that another process makes meanwhile is no stranger's folder
        used = os.path.lexists(desk.folder) and (not desk.folder.is_dir() or any(desk.folder.iterdir()))
        there = (desk.folder / DATABASE).is_file()
        if used and not there:
            desk._lost()
            raise ArtifactError(f"'{desk.folder.name}' is something else; choose a new folder for the requests")
        if not there and not desk.key_file.exists():
            try:
                make_key(desk.key_file)
            except ArtifactError:
                read_key(desk.key_file)  # another process was faster
        desk.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        opened = {
            "event": "open", "seq": 0, "time": now(), "schema": SCHEMA, "kind": KIND,
            "ledger": secrets.token_hex(16), "version": f"erase-plugins {late.VERSION}", "key": key_id(desk.key),
        }  # fmt: skip
        with desk._writing(create=True) as base:
            if not base.execute("SELECT count(*) FROM lines").fetchone()[0]:
                desk._lost()
                desk._put(base, [], [opened])
        desk.ledger()
        return desk

    @classmethod
    def open(cls, folder: str | Path, key: str | Path | None = None) -> Desk:
        """The desk in a folder.

        Raises:
            ArtifactError: none is there.
        """
        desk = cls(folder, key)
        if not (desk.folder / DATABASE).is_file():
            desk._lost()
            raise ArtifactError(
                f"no requests at '{desk.folder.name}'; the first 'erase-plugins request new' opens them"
            )
        return desk

    def _lost(self) -> None:
        """Refuses a folder without a ledger where there was one: opened, or with what was made for a request."""
        if any(_MADE.fullmatch(item.name) for item in self.folder.glob("q*-*")):
            raise CorruptArtifact(f"'{DATABASE}' is missing or empty beside what was made for requests; {_COPY}")
        if (self.folder / OPENED).exists():
            raise CorruptArtifact(
                f"'{DATABASE}' is missing or empty, and requests were kept here; {_COPY}, or remove '{OPENED}' to "
                "begin anew without them"
            )

    @property
    def key(self) -> bytes:
        """The key of the names; raises as for `read_key`."""
        return read_key(self.key_file)

    def mark(self, text: str) -> str:
        """The HMAC of a name, as the ledger holds it."""
        return mark(self.key, text).hex()

    # ---- reading and writing -----------------------------------------------------------------------------------

    def ledger(self, sealed: bool = True) -> Ledger:
        """All requests, every line checked.

        Args:
            sealed: compare the end with its seal, which needs the key.

        Raises:
            CorruptArtifact: a line was changed, cut, doubled or reordered, or the seal does not fit.
        """
        with self._connected(reading=True) as base:
            return self._read(base, self.key if sealed else None)

    def append(self, make: Callable[[Ledger], Bodies], role: str = "operator", dry_run: bool = False) -> Ledger:
        """Further lines, all of them or none.

        Args:
            make: given the requests as they are under the write lock, the new lines without number, time and role;
                what it raises leaves everything as it was.
            role: who acts, as a word.
            dry_run: check only.

        Raises:
            RequestError: a line may not follow; nothing was written.
            ArtifactError: another process holds the ledger for longer than `PATIENCE`.
        """
        with self._writing() as base:
            ledger = self._read(base, self.key)
            moment = max(now(), ledger.time)
            fresh = [{"role": role, **body, "seq": len(ledger.entries) + place, "time": moment}
                     for place, body in enumerate(make(ledger))]  # fmt: skip
            before = list(ledger.entries)
            for entry in chain.linked(fresh, ledger.head):
                try:
                    ledger.take(entry)
                except CorruptArtifact as error:  # not corrupt: it was never written
                    reason = stored(error).partition(" of the ledger: ")[2] or stored(error)
                    case = ledger.cases.get(entry.get("case", ""))
                    raise RequestError(f"{reason}; nothing was written{case.onward() if case else ''}") from None
            if dry_run:
                base.execute("ROLLBACK")
            else:
                self._put(base, before, fresh)
        return ledger

    # ---- inside ------------------------------------------------------------------------------------------------

    @contextmanager
    def _connected(self, reading: bool = False) -> Iterator[sqlite3.Connection]:
        still = reading and not os.access(self.folder, os.W_OK)
        try:
            base = self._opened_still() if still else _open(self._file, timeout=PATIENCE, isolation_level=None)
            try:
                if not still:
                    base.execute("PRAGMA journal_mode=WAL")
                    base.execute("PRAGMA synchronous=FULL")
                yield base
            finally:
                base.close()
        except sqlite3.OperationalError as error:
            if "no such table" in str(error):
                raise CorruptArtifact(f"'{DATABASE}' holds no requests; {_COPY}") from error
            busy = "locked" in str(error) or "busy" in str(error)
            advice = "wait for other commands and try again" if busy else "check the rights and the free space"
            raise ArtifactError(f"the requests cannot be opened or written: {error}; {advice}") from error
        except sqlite3.DatabaseError as error:
            raise CorruptArtifact(f"'{DATABASE}' is damaged: {error}; {_COPY}") from error

    @property
    def _file(self) -> Path:
        return self.folder / DATABASE

    def _opened_still(self) -> sqlite3.Connection:
        """The database where nobody can write: SQLite would make files beside it even to read."""
        waiting = self._file.with_name(f"{DATABASE}-wal")
        if waiting.exists() and waiting.stat().st_size:
            raise ArtifactError(
                f"'{self.folder.name}' cannot be written to, and its last lines wait in '{waiting.name}'; copy the "
                "folder to where it can be"
            )
        return _open(f"{self._file.resolve().as_uri()}?immutable=1", uri=True, isolation_level=None)

    @contextmanager
    def _writing(self, create: bool = False) -> Iterator[sqlite3.Connection]:
        """A connection that holds the write lock; committed if the with-block ends well."""
        with self._connected() as base:
            base.execute("BEGIN IMMEDIATE")
            try:
                for statement in _TABLES if create else ():
                    base.execute(statement)
                yield base
                if base.in_transaction:
                    base.execute("COMMIT")
            except BaseException:
                if base.in_transaction:
                    base.execute("ROLLBACK")
                raise
        self._file.chmod(0o600)
        (self.folder / OPENED).touch(mode=0o600)

    def _read(self, base: sqlite3.Connection, key: bytes | None) -> Ledger:
        base.execute("BEGIN" if not base.in_transaction else "SELECT 1")
        rows = base.execute("SELECT seq, line FROM lines ORDER BY seq").fetchall()
        seals = base.execute("SELECT count, head, mac FROM seal").fetchall()
        if [number for number, _ in rows] != list(range(len(rows))):
            raise CorruptArtifact("lines of the ledger are missing or counted twice; it proves nothing any more")
        try:
            content = "".join(f"{line}\n" for _, line in rows).encode("ascii")
        except (UnicodeEncodeError, TypeError) as error:
            raise CorruptArtifact("the ledger holds what none of its lines may hold") from error
        ledger = replay(chain.parsed(content))
        if key is not None:
            if ledger.opened["key"] != key_id(key):
                raise CorruptArtifact(
                    f"'{self.key_file.name}' is not the key of these requests; give theirs with ", Hint("key")
                )
            if seals != [(len(rows), ledger.head, _seal(key, len(rows), ledger.head))]:
                raise CorruptArtifact("the ledger does not end as it was sealed: lines were cut off or written anew")
        return ledger

    def _put(self, base: sqlite3.Connection, before: list[dict[str, Any]], bodies: Bodies) -> None:
        entries = chain.linked(bodies, chain.head_of(before))
        lines = [(len(before) + place, chain.canonical(entry)) for place, entry in enumerate(entries)]
        base.executemany("INSERT INTO lines VALUES (?, ?)", lines)
        head, total = chain.head_of([*before, *entries]), len(before) + len(entries)
        base.execute("INSERT OR REPLACE INTO seal VALUES (1, ?, ?, ?)", (total, head, _seal(self.key, total, head)))


def key_id(key: bytes) -> str:
    """Which key it is, without telling it."""
    return hmac.new(key, b"erase-plugins key id", hashlib.sha256).hexdigest()[:16]


def _seal(key: bytes, count: int, head: str) -> str:
    return hmac.new(key, f"erase-plugins seal {count} {head}".encode(), hashlib.sha256).hexdigest()
