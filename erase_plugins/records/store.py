"""A head with its ledger in a folder: learn, delete, add, replace, release. Killed at any moment, nothing is lost.

The state file is written first and holds the ledger's next lines; whoever opens the folder next writes them into the
ledger if they are not there. A release stands in the ledger before a file of it exists.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from erase_plugins.artifacts import chain
from erase_plugins.artifacts.locks import locked
from erase_plugins.artifacts.marks import canonical_name
from erase_plugins.errors import ArtifactError, CorruptArtifact, PushRefused, RequestError
from erase_plugins.hints import Hint
from erase_plugins.records.certificate import LEDGER, certificate
from erase_plugins.records.descent import Schedule, descend
from erase_plugins.records.events import KIND, SCHEMA, check_id, now
from erase_plugins.records.intake import check_group, checked_rows, draw_fixed, empty_state
from erase_plugins.records.ledger import Account, replay
from erase_plugins.records.losses import Loss
from erase_plugins.records.noise import Noise, SystemNoise, TestNoise
from erase_plugins.records.options import HeadOptions
from erase_plugins.records.places import check_free, sweep
from erase_plugins.records.state import STATE, State, Subjects, new_ids
from erase_plugins.records.weights import array_sha256

#: seconds to wait for another process that changes the same head
PATIENCE = 60.0
Progress = Callable[[int, int], None]


class Records:
    """A head on frozen features, from which records can be deleted. Open it with `create` or `open`."""

    def __init__(self, folder: Path, test_seed: int | None = None, patience: float = PATIENCE) -> None:
        self.folder, self.test_seed, self.patience = folder, test_seed, patience

    # ---- making and opening ------------------------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        folder: str | Path,
        features: Any,
        labels: Any,
        options: HeadOptions,
        subjects: Sequence[str] | None = None,
        start: Any = None,
        progress: Progress | None = None,
    ) -> tuple[Records, list[str]]:
        """Learns a head from records and opens its ledger.

        Args:
            folder: new folder; it stays private, what may leave it are releases.
            features: (records, dim) numbers from a frozen model that never saw these records.
            labels: one per row.
            options: fixed from here on.
            subjects: the person of each row; kept as HMAC only.
            start: (outputs, dim) frozen head under a low-rank one, for features as they come (and the constant, if
                there is one); it never saw these records either.
            progress: called with steps done and all steps.

        Returns:
            The head, and the random id of every row.

        Raises:
            RequestError: bad numbers, labels out of range, more records than slots.
            ArtifactError: something is there already.
        """
        from erase_plugins import late

        place = Path(folder)
        check_free(place)
        noise: Noise = SystemNoise() if options.test_seed is None else TestNoise(options.test_seed)
        shape = getattr(features, "shape", ())
        if len(shape) != 2:
            raise RequestError(f"features of shape {tuple(shape)} are no matrix; give one row per record")
        opened = options.opening(*shape)
        fixed = draw_fixed(opened, noise)  # before any row is looked at
        state, opened = empty_state(opened, fixed, start)
        rows, values = checked_rows(opened, features, labels)
        ids = new_ids(len(rows), ())
        head = cls(place, options.test_seed)
        first = {
            "event": "open", "seq": 0, "time": now(), "schema": SCHEMA, "kind": KIND, "ledger": secrets.token_hex(16),
            "version": f"erase-plugins {late.VERSION}", **opened, "ids": ids,
        }  # fmt: skip
        replay(chain.linked([first]))  # nothing is written for what the ledger would refuse
        if subjects is not None:
            if len(subjects) != len(rows):
                raise RequestError(f"{len(subjects)} subjects for {len(rows)} records; give one line per record")
            check_group([canonical_name(name) for name in subjects], opened["group"])
        with locked(place / LEDGER, head.patience):
            check_free(place)  # another run may have made it meanwhile
            sweep(place)
            place.chmod(0o700)
            whose = Subjects(place)
            whose.make_key()
            marks = whose.marks(subjects, len(rows))
            state = state.joined(rows, values, ids, marks)
            weights = head._learned(state, opened, opened["learn_steps"], noise, progress)
            learned = {"event": "learn", "seq": 1, "time": now(), "steps": opened["learn_steps"]}
            entries = chain.linked([first, learned])
            replay(entries)
            replace(state, weights=weights, pending=tuple(entries)).write(place)
            chain.write(place / LEDGER, entries)
        return head, ids

    @classmethod
    def open(cls, folder: str | Path, test_seed: int | None = None) -> Records:
        """The head in a folder.

        Raises:
            ArtifactError: none is there.
        """
        place = Path(folder)
        if not (place / STATE).is_file():
            raise ArtifactError(f"no head at '{place.name}'; make one with 'erase-plugins records init'")
        return cls(place, test_seed)

    # ---- looking -----------------------------------------------------------------------------------------------

    def account(self) -> Account:
        """The ledger, checked and replayed."""
        with self._held() as (_, entries):
            return replay(entries)

    def certificate(self) -> dict[str, Any]:
        """What may be said about the deleted records now; see `erase_plugins.records.certificate`."""
        return certificate(self.account())

    def ids(self, subject: str | None = None) -> list[str]:
        """Ids of the records that are there, or those of one person.

        Raises:
            RequestError: nobody of that name has records here.
        """
        with self._held() as (state, _):
            if subject is None:
                return list(state.ids)
            mark = Subjects(self.folder).mark(subject)
            found = [name for name, whose in zip(state.ids, state.subjects, strict=True) if whose == mark]
            if not found:
                raise RequestError("no record of that subject is here; check the spelling, or name the records by id")
            return found

    def find(self, features: Any, labels: Any) -> list[str]:
        """Ids of the records that have these features (records, dim) and labels.

        Raises:
            RequestError: one of them is not here, or was deleted.
        """
        import numpy as np

        with self._held() as (state, entries):
            rows, values = checked_rows(replay(entries).opened, features, labels)
        rows = rows if state.fixed is None else rows @ state.fixed.T
        free, found = list(range(len(state.ids))), []
        for number, (row, value) in enumerate(zip(rows, values, strict=True)):
            same = np.abs(state.rows[free] - row).max(axis=1, initial=0) < 1e-9 * max(1.0, float(np.abs(row).max()))
            places = np.flatnonzero(same & (state.labels[free] == value))
            if not places.size:
                raise RequestError(
                    f"record {number} of those to delete is not in this head: it was never there, or is deleted"
                )
            found.append(state.ids[free.pop(int(places[0]))])
        return found

    # ---- changing ----------------------------------------------------------------------------------------------

    def delete(self, ids: Sequence[str], progress: Progress | None = None) -> Account:
        """Takes records out of the data and, by noisy steps, out of the weights."""
        return self._edit(removed=ids, progress=progress)

    def add(
        self, features: Any, labels: Any, subjects: Sequence[str] | None = None, progress: Progress | None = None
    ) -> list[str]:
        """Puts new records into free slots; returns their ids."""
        account = self._edit(features=features, labels=labels, subjects=subjects, progress=progress)
        return [item.id for item in account.lives.values() if item.joined == account.lines - 1]

    def replace(
        self, ids: Sequence[str], features: Any, labels: Any, subjects: Sequence[str] | None = None,
        progress: Progress | None = None,
    ) -> list[str]:  # fmt: skip
        """Puts new records into the slots of others, which are deleted by it; returns the new ids."""
        if not ids:
            raise RequestError("nothing to replace was named; name the ids of the records")
        account = self._edit(replaced=ids, features=features, labels=labels, subjects=subjects, progress=progress)
        return [item.id for item in account.lives.values() if item.joined == account.lines - 1]

    def release(self, raise_to: int | None = None) -> tuple[list[dict[str, Any]], State]:
        """Enters the publication of a file with the present weights into the ledger. The same weights cost it once.

        Args:
            raise_to: a person's decision that this many models may be published.

        Returns:
            The ledger, and the state whose weights are published.

        Raises:
            PushRefused: the budget is used up; that is entered too.
        """
        with self._held() as (state, entries):
            account = replay(entries)
            bodies: list[dict[str, Any]] = []
            if raise_to is not None:
                if raise_to <= account.max_releases:
                    raise RequestError(f"{account.max_releases} releases are allowed already; give a larger number")
                bodies.append({"event": "budget", "max_releases": raise_to})
            most = account.max_releases if raise_to is None else raise_to
            number = len(account.releases) + (not account.published)
            if number > most:
                self._append(state, entries, [{"event": "refused", "what": "release"}])
                raise PushRefused(
                    f"release {number} of {most}: every further model tells more about records that are deleted later; "
                    "nothing was written. Whoever answers for it can raise the budget (",
                    Hint("raise-budget", str(number)),
                    ")",
                )
            if not account.published:
                digest = array_sha256(state.weights)
                bodies.append({"event": "release", "n": number, "where": "file", "sha256": digest})
            return (self._append(state, entries, bodies) if bodies else entries), state

    def went_to(self, number: int, where: str) -> None:
        """Enters a further place of a published model into the ledger; it costs nothing more."""
        with self._held() as (state, entries):
            found = replay(entries).releases[number - 1]
            if where not in found["where"]:
                body = {"event": "release", "n": number, "where": where, "sha256": found["sha256"]}
                self._append(state, entries, [body])

    # ---- inside ------------------------------------------------------------------------------------------------

    @contextmanager
    def _held(self) -> Iterator[tuple[State, list[dict[str, Any]]]]:
        """State and ledger under the lock, after what a killed run left was brought to its end."""
        with locked(self.folder / LEDGER, self.patience):
            sweep(self.folder)
            state = State.read(self.folder)
            entries = chain.read(self.folder / LEDGER)
            pending = list(state.pending)
            if pending and pending[0].get("prev") == chain.head_of(entries):
                entries = chain.parsed(chain.text([*entries, *pending]).encode())
                replay(entries)
                chain.write(self.folder / LEDGER, entries)
            account = replay(entries)
            if not pending or account.head != pending[-1].get("hash"):
                raise CorruptArtifact(
                    "weights and ledger do not end with the same line: one of the two was exchanged or cut; there is "
                    "no certificate for them"
                )
            if sorted(state.ids) != sorted(account.present):
                raise CorruptArtifact("the records in the folder are not those of its ledger")
            yield state, entries

    def _append(
        self, state: State, entries: list[dict[str, Any]], bodies: Sequence[Mapping[str, Any]]
    ) -> list[dict[str, Any]]:
        """Further lines, the state first: it knows how the ledger ends, so that nothing can be cut off unseen."""
        after = self._following(entries, bodies)
        replace(state, pending=tuple(after[len(entries) :])).write(self.folder)
        chain.write(self.folder / LEDGER, after)
        return after

    def _following(self, entries: list[dict[str, Any]], bodies: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The ledger with further lines, replayed once to see that it holds."""
        moment = max(now(), entries[-1]["time"])
        numbered = [{**body, "seq": len(entries) + place, "time": moment} for place, body in enumerate(bodies)]
        found = [*entries, *chain.linked(numbered, chain.head_of(entries))]
        replay(found)
        return found

    def _noise(self, opened: Mapping[str, Any]) -> Noise:
        if opened["noise"] == "system":
            if self.test_seed is not None:
                raise RequestError("this head draws its noise from the system; a seed would void its certificate")
            return SystemNoise()
        return TestNoise(secrets.randbits(32) if self.test_seed is None else self.test_seed)

    def _learned(
        self, state: State, opened: Mapping[str, Any], steps: int, noise: Noise, progress: Progress | None
    ) -> Any:
        schedule = Schedule(
            Loss(opened["loss"], opened["threshold"]), opened["lam"], opened["eta"], opened["sigma2"], opened["n"]
        )
        return descend(state.weights, state.rows, state.labels, schedule, steps, noise, state.offset, progress)

    def _edit(
        self,
        removed: Sequence[str] = (),
        replaced: Sequence[str] = (),
        features: Any = None,
        labels: Any = None,
        subjects: Sequence[str] | None = None,
        progress: Progress | None = None,
    ) -> Account:
        gone = [check_id(name) for name in (*removed, *replaced)]
        if len(set(gone)) != len(gone):
            raise RequestError("a record is named twice; name each once")
        if not gone and features is None:
            raise RequestError("no record was named; name the ids of the records")
        with self._held() as (state, entries):
            account = replay(entries)
            opened = account.opened
            for name in gone:
                life = account.lives.get(name)
                if life is None or life.left is not None:
                    what = "was never here" if life is None else "is deleted already"
                    raise RequestError(f"record {name} {what}; nothing was changed")
            rows, values, ids = None, None, list[str]()
            if features is not None:
                rows, values = checked_rows(opened, features, labels)
                if replaced and len(replaced) != len(rows):
                    raise RequestError(f"{len(rows)} new records for {len(replaced)} old ones; give one for each")
                free = opened["n"] - len(account.present) + len(gone)
                if len(rows) > free or not len(rows):
                    raise RequestError(
                        f"{len(rows)} records for {free} free slots of {opened['n']}; delete some first, or make a new "
                        "head with more ",
                        Hint("slots"),
                    )
                ids = new_ids(len(rows), list(account.lives))
            next_state = state.without(gone)
            if rows is not None:
                marks = Subjects(self.folder).marks(subjects, len(rows))
                check_group([*next_state.subjects, *marks], opened["group"])
                next_state = next_state.joined(rows, values, ids, marks)
            fresh = opened["mode"] == "fresh"
            if fresh:
                next_state = replace(next_state, weights=state.weights * 0)
            steps = opened["learn_steps" if fresh else "edit_steps"]
            body = {
                "event": "edit", "removed": list(removed), "added": [] if replaced else ids,
                "replaced": [list(pair) for pair in zip(replaced, ids, strict=True)] if replaced else [],
                "steps": steps, "fresh": fresh,
            }  # fmt: skip
            self._following(entries, [body])  # refused before the work, if at all
            weights = self._learned(next_state, opened, steps, self._noise(opened), progress)
            return replay(self._append(replace(next_state, weights=weights), entries, [body]))
