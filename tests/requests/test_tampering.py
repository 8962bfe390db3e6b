"""Changed ledgers are found: links by the chain, what the chain cannot see by the rules, the end by its seal."""

from __future__ import annotations

import copy
import json
import random
import sqlite3
from collections.abc import Callable
from typing import Any

import pytest

from erase_plugins.artifacts import chain
from erase_plugins.errors import CorruptArtifact
from erase_plugins.requests.certificate import certificate, to_json, verify
from erase_plugins.requests.store import DATABASE, Desk
from tests.requests.conftest import lived

Lines = list[dict[str, Any]]
Change = Callable[[Lines], None]


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """(desk, first request, its lines as they are stored)."""
    desk, first, _ = lived(tmp_path_factory.mktemp("stored") / "desk")
    return desk, first, desk.ledger().entries


def at(event: str, field: str, value: Any, which: int = 0) -> Change:
    """Sets a field of the n-th line of an event."""

    def change(lines: Lines) -> None:
        line = [item for item in lines if item["event"] == event][which]
        assert field not in line or line[field] != value, "no change at all"
        line[field] = value

    return change


def without(event: str, field: str) -> Change:
    def change(lines: Lines) -> None:
        del next(item for item in lines if item["event"] == event)[field]

    return change


def drop(event: str, which: int = 0) -> Change:
    return lambda lines: lines.remove([item for item in lines if item["event"] == event][which])


def twice(event: str) -> Change:
    def change(lines: Lines) -> None:
        place = next(number for number, item in enumerate(lines) if item["event"] == event)
        lines.insert(place + 1, copy.deepcopy(lines[place]))

    return change


def swap(first: int, second: int) -> Change:
    def change(lines: Lines) -> None:
        lines[first], lines[second] = lines[second], lines[first]

    return change


def nested(event: str, path: tuple[Any, ...], value: Any) -> Change:
    def change(lines: Lines) -> None:
        item: Any = next(line for line in lines if line["event"] == event)
        for key in path[:-1]:
            item = item[key]
        item[path[-1]] = value

    return change


#: changes that break a rule even when all links and numbers are made anew by somebody who knows how
AGAINST_THE_RULES: dict[str, Change] = {
    "schema": at("open", "schema", 2),
    "kind of ledger": at("open", "kind", "erase-plugins records"),
    "ledger id": at("open", "ledger", "short"),
    "version with a path": at("open", "version", "../x"),
    "kind of request": at("received", "what", "animal"),
    "no subject": at("received", "subjects", []),
    "a name for a mark": at("received", "subjects", ["Zorvane Ymbrook"]),
    "the same mark twice": at("received", "subjects", ["c" * 64, "c" * 64]),
    "later deadline": at("received", "due", "2031-01-01"),
    "other rule": at("received", "rule", "mars"),
    "days of another rule": at("received", "days", 90),
    "day that is none": at("received", "day", "2026-02-31"),
    "person made public": at("received", "public", True),
    "evidence with a name": at("received", "evidence", "Zorvane, Ymbrook <z@y>"),
    "data without hash": at("received", "data", "letter.jsonl"),
    "identity": at("verified", "identity", "trust"),
    "no remedies": at("triaged", "remedies", []),
    "remedy with a note": nested("triaged", ("remedies", 0, "note"), "for Zorvane"),
    "remedy of no level": nested("triaged", ("remedies", 0, "level"), "magic"),
    "attempt skipped": at("started", "attempt", 2),
    "attempt 0": at("started", "attempt", 0),
    "attempt as text": at("started", "attempt", "1"),
    "remedy not planned": at("started", "remedy", "mace"),
    "record by content": at("started", "records", ["sha-of-a-record"]),
    "artifact no hash": at("made", "artifact", "x"),
    "made in another attempt": at("made", "attempt", 2),
    "passed with reasons": at("evaluated", "reasons", ["but"]),
    "failed without reasons": at("evaluated", "passed", False),
    "a failure turned to pass": at("evaluated", "passed", True, 1),
    "row cut": nested("evaluated", ("rows", 0), ["target_rate", "base"]),
    "row with a sentence": nested("evaluated", ("rows", 0, 0), "of Zorvane: nothing, was found (yet)"),
    "value not a number": nested("evaluated", ("rows", 0, 2), "0"),
    "limit as text": at("evaluated", "left", "0.1"),
    "deployed another artifact": at("deployed", "artifact", "d" * 64),
    "override where it passed": at("deployed", "override", "risk-accepted"),
    "no override where it failed": at("deployed", "override", None, 1),
    "revoked for no reason of the list": at("revoked", "reason", "because"),
    "extended too far": at("extended", "due", "2031-01-01"),
    "hold with a sentence": at("held", "reason", "asked Zorvane"),
    "unknown event": at("verified", "event", "waved-through"),
    "unknown field": at("verified", "name", "Zorvane"),
    "role with a name": at("verified", "role", "Zorvane Ymbrook"),
    "field missing": without("made", "base"),
    "case of nobody": at("verified", "case", "q" + "0" * 12),
    "case malformed": at("verified", "case", "q1"),
    "time malformed": at("verified", "time", "yesterday"),
    "time before the line above": at("closed", "time", "2020-01-01T00:00:00Z"),
    "opening dropped": drop("open"),
    "receipt dropped": drop("received"),
    "identity check dropped": drop("verified"),
    "evaluation dropped": drop("evaluated"),
    "resumption dropped": drop("resumed"),
    "start twice": twice("started"),
    "receipt twice": twice("received"),
    "opened twice": twice("open"),
    "plan before identity": swap(3, 4),
}
#: changes after which every rule holds: the chain finds them, or the seal if all links were made anew
WITHIN_THE_RULES: dict[str, Change] = {
    "another mark": at("received", "subjects", ["c" * 64]),
    "another ticket": at("received", "evidence", "ticket 18"),
    "another identity check": at("verified", "identity", "in-person"),
    "another seed": at("started", "seed", 7),
    "a better number": nested("evaluated", ("rows", 1, 3), 0.001),
    "another limit": at("evaluated", "left", 0.9),
    "another base": at("made", "base", "c" * 64),
    "another reason": at("revoked", "reason", "mistake"),
    "the end cut off": lambda lines: lines.pop(),
    "a revocation cut off": lambda lines: lines.__delitem__(slice(-2, None)),
}


def relinked(lines: Lines) -> Lines:
    """All numbers and links made anew."""
    bodies = [{name: value for name, value in line.items() if name not in ("prev", "hash")} for line in lines]
    return chain.linked([{**body, "seq": place} for place, body in enumerate(bodies)])


def put(tmp_path, desk: Desk, lines: Lines) -> Desk:
    """A copy of the desk with other lines, written around its triggers."""
    (tmp_path / "desk").mkdir()
    base = sqlite3.connect(tmp_path / "desk" / DATABASE)
    source = sqlite3.connect(desk.folder / DATABASE)
    source.backup(base)
    source.close()
    base.execute("DROP TRIGGER lines_last")
    base.execute("DELETE FROM lines")
    base.executemany("INSERT INTO lines VALUES (?, ?)", enumerate(map(chain.canonical, lines)))
    base.commit()
    base.close()
    return Desk.open(tmp_path / "desk", desk.key_file)


def changed(lines: Lines, change: Change) -> Lines:
    found = copy.deepcopy(lines)
    change(found)
    assert found != lines
    return found


def test_an_untouched_copy_holds(stored, tmp_path):
    desk, _, lines = stored
    assert put(tmp_path, desk, relinked(lines)).ledger().head == desk.ledger().head
    assert len(AGAINST_THE_RULES) + len(WITHIN_THE_RULES) >= 50


@pytest.mark.parametrize(
    "change", (AGAINST_THE_RULES | WITHIN_THE_RULES).values(), ids=AGAINST_THE_RULES | WITHIN_THE_RULES
)
def test_a_changed_ledger_is_found(stored, change, tmp_path):
    desk, _, lines = stored
    with pytest.raises(CorruptArtifact):
        put(tmp_path, desk, changed(lines, change)).ledger()


@pytest.mark.parametrize("change", AGAINST_THE_RULES.values(), ids=AGAINST_THE_RULES)
def test_new_links_do_not_hide_what_breaks_a_rule(stored, change, tmp_path):
    desk, _, lines = stored
    with pytest.raises(CorruptArtifact):
        put(tmp_path, desk, relinked(changed(lines, change))).ledger(sealed=False)


@pytest.mark.parametrize("change", WITHIN_THE_RULES.values(), ids=WITHIN_THE_RULES)
def test_new_links_do_not_fit_the_seal(stored, change, tmp_path):
    desk, _, lines = stored
    forged = put(tmp_path, desk, relinked(changed(lines, change)))
    forged.ledger(sealed=False)  # nothing else finds it
    with pytest.raises(CorruptArtifact, match="sealed"):
        forged.ledger()


def test_500_changes_of_a_character_are_found(stored, tmp_path):
    desk, _, lines = stored
    copied, chance = put(tmp_path, desk, lines), random.Random(15)
    base = sqlite3.connect(copied.folder / DATABASE, isolation_level=None)
    base.execute("DROP TRIGGER lines_stay")
    for _ in range(500):
        seq, text = chance.choice(base.execute("SELECT seq, line FROM lines").fetchall())
        place = chance.randrange(len(text))
        other = chance.choice([sign for sign in '0a7z"}, ' if sign != text[place]])
        base.execute("UPDATE lines SET line = ? WHERE seq = ?", (text[:place] + other + text[place + 1 :], seq))
        with pytest.raises(CorruptArtifact):
            copied.ledger()
        base.execute("UPDATE lines SET line = ? WHERE seq = ?", (text, seq))
    base.close()
    assert copied.ledger().head == desk.ledger().head


DATABASES: dict[str, str] = {
    "line removed": "DELETE FROM lines WHERE seq = 5",
    "line renumbered": "UPDATE lines SET seq = 900 WHERE seq = 5",
    "seal removed": "DELETE FROM seal",
    "seal changed": "UPDATE seal SET count = count - 1",
    "seal forged": "UPDATE seal SET mac = '00'",
    "line no text": "UPDATE lines SET line = x'ff00' WHERE seq = 5",
    "line not ascii": "UPDATE lines SET line = line || 'ü' WHERE seq = 5",
    "all gone": "DELETE FROM lines",
}


@pytest.mark.parametrize("statement", DATABASES.values(), ids=DATABASES)
def test_a_changed_database_is_found(stored, statement, tmp_path):
    desk, _, lines = stored
    copied = put(tmp_path, desk, lines)
    base = sqlite3.connect(copied.folder / DATABASE)
    base.execute("DROP TRIGGER lines_stay")
    base.execute(statement)
    base.commit()
    base.close()
    with pytest.raises(CorruptArtifact):
        copied.ledger()


def test_the_database_itself_refuses_changes(stored):
    desk, _, _ = stored
    base = sqlite3.connect(desk.folder / DATABASE)
    for statement in ("UPDATE lines SET line = 'x'", "DELETE FROM lines"):
        with pytest.raises(sqlite3.IntegrityError, match="append only"):
            base.execute(statement)
    base.close()


def test_a_damaged_file_is_one_line(stored, tmp_path):
    desk, _, lines = stored
    copied = put(tmp_path, desk, lines)
    (copied.folder / DATABASE).write_bytes(b"x" * 5000)
    with pytest.raises(CorruptArtifact, match="damaged"):
        copied.ledger()


def test_another_key_is_not_taken(stored, tmp_path):
    from erase_plugins.artifacts.marks import make_key

    desk, _, lines = stored
    copied = put(tmp_path, desk, lines)
    make_key(tmp_path / "other.key")
    with pytest.raises(CorruptArtifact, match="not the key of these requests"):
        Desk.open(copied.folder, tmp_path / "other.key").ledger()


CERTIFICATES: dict[str, Callable[[dict[str, Any]], None]] = {
    "number": lambda data: data["rows"][1].__setitem__(2, 0.0001),
    "sentence": lambda data: data["says"].__setitem__(0, "the data are deleted"),
    "in time": lambda data: data.update(in_time=False),
    "a claim added": lambda data: data.update(compliant=True),
    "a disclaimer removed": lambda data: data["not_claimed"].pop(),
    "line": lambda data: data["lines"][0].update(evidence="ticket 18"),
    "line dropped": lambda data: data["lines"].pop(1),
    "lines reordered": lambda data: data["lines"].reverse(),
    "link": lambda data: data["links"].__setitem__(2, "0" * 64),
    "last link and head": lambda data: (data["links"].__setitem__(-1, "0" * 64), data["ledger"].update(head="0" * 64)),
    "end": lambda data: data["links"].pop(),
    "head": lambda data: data["ledger"].update(head="0" * 64),
    "case": lambda data: data.update(case="q" + "0" * 12),
    "nothing": lambda data: data.clear(),
}


@pytest.mark.parametrize("change", CERTIFICATES.values(), ids=CERTIFICATES)
def test_a_changed_certificate_is_found(stored, change, tmp_path):
    desk, first, _ = stored
    ledger = desk.ledger()
    file = tmp_path / "certificate.json"
    file.write_text(to_json(certificate(ledger, ledger.case(first))))
    assert verify(file)["case"] == first
    assert verify(file, ledger.head)["anchored"]
    data = json.loads(file.read_text())
    change(data)
    file.write_text(json.dumps(data))
    with pytest.raises(CorruptArtifact):
        verify(file)
