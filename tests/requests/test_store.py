"""The desk under two writers and under kills: whatever was acknowledged is there, and nothing half written ever is."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from erase_plugins.artifacts.marks import read_key
from erase_plugins.errors import ArtifactError, CorruptArtifact, RequestError
from erase_plugins.requests import decisions
from erase_plugins.requests import store as store_file
from erase_plugins.requests.intake import receive, recognise
from erase_plugins.requests.store import DATABASE, OPENED, Desk
from tests.requests.conftest import CANARY, OTHER, lived

ROOT = Path(__file__).resolve().parents[2]


def test_two_processes_write_at_once(tmp_path):
    code = (
        "import sys, time\n"
        "from erase_plugins.requests.intake import receive\n"
        "from erase_plugins.requests.decisions import verify_identity\n"
        "from erase_plugins.requests.store import Desk\n"
        "desk = Desk.create(sys.argv[1])\n"
        "for number in range(60):\n"
        "    case, _ = receive(desk, 'person', [f'{sys.argv[2]} {number}'])\n"
        "    verify_identity(desk, case, 'account')\n"
        "    print(case, flush=True)\n"
        "    time.sleep(0.01)\n"  # SQLite lets a writer that waits try every few milliseconds only
    )
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", code, tmp_path / "desk", name],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        for name in ("one", "two")
    ]
    said = [writer.communicate(timeout=120)[0].split() for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0]
    ledger = Desk.open(tmp_path / "desk").ledger()
    assert len(ledger.entries) == 1 + 2 * 120
    assert set(ledger.cases) == {*said[0], *said[1]}
    assert {case.state for case in ledger.cases.values()} == {"identity_verified"}
    kinds = ["".join("1" if item["case"] in said[0] else "2" for item in ledger.entries[1:])]
    assert "12" in kinds[0] and "21" in kinds[0], "they never wrote in turns, so nothing was tested"


def test_a_desk_that_another_process_makes_at_the_same_time_is_taken(tmp_path, monkeypatch):
    real = store_file.make_key

    def slow(file):
        monkeypatch.setattr(store_file, "make_key", real)
        Desk.create(tmp_path / "desk")
        real(file)

    monkeypatch.setattr(store_file, "make_key", slow)
    assert len(Desk.create(tmp_path / "desk").ledger().entries) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_at_100_random_points(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "tests.requests.lives", tmp_path, "100"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lives = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lives) == 100
    acknowledged = []
    for number, life in enumerate(lives):
        acknowledged += [(life["desk"], line) for line in life["told"]]
        if life["there"] is not None:
            mine = {line for desk, line in acknowledged if desk == life["desk"]}
            assert mine <= set(life["there"])
            assert len(set(life["there"]) - mine) <= number % 10 + 1, "at most the write under way was not told"
    assert len(acknowledged) >= 50


def test_a_failing_write_leaves_nothing(desk, monkeypatch):
    """Faults at every statement of a write: all of it or none, and the next one goes on."""
    store, _, second = desk
    before = store.ledger().head
    broken = 0
    for fail_at in range(1, 30):
        counted = [0]
        real = store_file._open

        class Failing(sqlite3.Connection):
            def execute(self, *words):
                counted[0] += 1
                if counted[0] == fail_at:
                    raise sqlite3.OperationalError("disk I/O error")
                return super().execute(*words)

        with monkeypatch.context() as patch:
            patch.setattr(store_file, "_open", lambda *a, real=real, kind=Failing, **k: real(*a, **k, factory=kind))
            try:
                decisions.decide(store, second, "close")
            except ArtifactError as error:
                said = str(error)
            else:
                break
        broken += "disk I/O error" in said
        assert store.ledger().head == before or store.ledger().case(second).state == "closed"
    assert broken >= 5
    assert store.ledger().case(second).state == "closed"


def test_a_refused_step_writes_nothing_and_says_why(desk):
    store, first, second = desk
    before = store.ledger().head
    with pytest.raises(
        RequestError, match=r"'verified' cannot follow on 'closed'; it needs received; nothing was written$"
    ):
        decisions.verify_identity(store, first, "account")
    with pytest.raises(RequestError, match=r"^it is closed already; nothing was written"):
        decisions.decide(store, first, "close")
    with pytest.raises(RequestError, match=r"nothing was written; next for it: 'erase-plugins request export'$"):
        decisions.decide(store, second, "hold", "identity")
    with pytest.raises(RequestError, match=r"extended already|cannot follow"):
        decisions.decide(store, second, "extend", "complexity")
    assert store.ledger().head == before


def test_a_closed_request_leaves_no_checkpoint(desk):
    store, first, second = desk
    for name in (first, second):
        (store.folder / f".{name}-1.work").mkdir()
        (store.folder / f".{name}-1.work" / "checkpoint.json").write_text(CANARY)
    decisions.decide(store, second, "close", dry_run=True)
    decisions.decide(store, second, "close")
    assert [path.name for path in store.folder.glob(".*.work")] == [f".{first}-1.work"]


def test_a_dry_run_writes_nothing(desk):
    store, _, second = desk
    before = (store.folder / DATABASE).read_bytes()
    assert decisions.decide(store, second, "close", dry_run=True).case(second).state == "closed"
    case, ledger = receive(store, "person", ["Somebody"], dry_run=True)
    assert case in ledger.cases
    assert store.ledger().case(second).state == "deployed"
    assert (store.folder / DATABASE).read_bytes() == before


def test_names_are_recognised_and_nobody_else(desk):
    store, first, _ = desk
    case = store.ledger().case(first)
    assert recognise(store, case, ["  zorvane  YMBROOK-quillith "]) == ["zorvane YMBROOK-quillith"]
    for names in ([OTHER], [CANARY, OTHER], []):
        with pytest.raises(RequestError, match="are not those of request") as refused:
            recognise(store, case, names)
        assert OTHER not in str(refused.value)


def test_data_are_recognised_by_their_hash_under_the_key(tmp_path):
    letter = tmp_path / "letter.jsonl"
    letter.write_text('{"text": "Zorvane lives in Ymbrook"}\n')
    store = Desk.create(tmp_path / "desk")
    name, ledger = receive(store, "document", [CANARY], data=str(letter))
    case = ledger.case(name)
    import hashlib

    assert case.last["received"]["data"] != hashlib.sha256(letter.read_bytes()).hexdigest()
    assert recognise(store, case, [CANARY], str(letter)) == [CANARY]
    with pytest.raises(RequestError, match="none were given"):
        recognise(store, case, [CANARY])
    letter.write_text('{"text": "Zorvane lives in Ymbrook!"}\n')
    with pytest.raises(RequestError, match="others are given"):
        recognise(store, case, [CANARY], str(letter))


@pytest.mark.skipif(os.name == "nt", reason="rights are told apart elsewhere")
def test_the_key_is_outside_and_its_own_readers(tmp_path):
    store = lived(tmp_path / "desk")[0]
    assert store.key_file == tmp_path / "desk.key"
    assert store.key_file.stat().st_mode & 0o777 == 0o600
    assert (store.folder.stat().st_mode & 0o777, (store.folder / DATABASE).stat().st_mode & 0o777) == (0o700, 0o600)
    key = read_key(store.key_file)
    assert not any(
        key in path.read_bytes() or key.hex().encode() in path.read_bytes() for path in store.folder.iterdir()
    )
    store.key_file.chmod(0o644)
    with pytest.raises(CorruptArtifact, match=r"others may read the key 'desk.key'"):
        store.ledger()
    store.key_file.unlink()
    with pytest.raises(CorruptArtifact, match="is missing"):
        store.ledger()
    assert (
        len(store.ledger(sealed=False).cases) == 2
    )  # the key destroyed: what was done stays readable, nobody is named
    with pytest.raises(ArtifactError, match="would lie in the folder"):
        Desk.create(tmp_path / "desk", tmp_path / "desk" / "inside.key")


def test_requests_on_a_read_only_disk_are_read_and_not_entered(tmp_path, monkeypatch):
    store = lived(tmp_path / "desk")[0]
    lines = len(store.ledger().entries)
    before = {item.name: item.stat().st_mtime_ns for item in store.folder.iterdir()}
    monkeypatch.setattr(store_file.os, "access", lambda path, mode: False)
    assert len(store.ledger().entries) == lines
    with store._connected(reading=True) as base, pytest.raises(sqlite3.OperationalError, match="readonly"):
        base.execute("DELETE FROM seal")
    assert {item.name: item.stat().st_mtime_ns for item in store.folder.iterdir()} == before
    (store.folder / f"{DATABASE}-wal").write_bytes(b"lines that were not put in their place")
    with pytest.raises(ArtifactError, match=r"its last lines wait in 'requests.db-wal'; copy the folder"):
        store.ledger()


@pytest.mark.parametrize(
    ("said", "advice"),
    [("database is locked", "wait for other commands"), ("attempt to write a readonly database", "check the rights"),
     ("database or disk is full", "the free space")],
)  # fmt: skip
def test_who_cannot_write_is_told_why(desk, said, advice):
    with pytest.raises(ArtifactError, match=f"{said}; .*{advice}"), desk[0]._connected():
        raise sqlite3.OperationalError(said)


def test_the_same_name_has_other_marks_at_another_desk(tmp_path):
    marks = [Desk.create(tmp_path / name).mark(CANARY) for name in ("one", "two")]
    assert marks[0] != marks[1]


def test_nothing_is_made_where_something_else_is(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_text("x")
    with pytest.raises(ArtifactError, match="something else"):
        Desk.create(tmp_path / "photos")
    with pytest.raises(ArtifactError, match="request new"):
        Desk.open(tmp_path / "nothing")
    assert not (tmp_path / "photos.key").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"what": "animal"}, "unknown kind"),
        ({"subjects": []}, "nobody and nothing was named"),
        ({"subjects": ["  "]}, "is empty"),
        ({"public": True}, "never published"),
        ({"evidence": "mail of Zorvane YMBROOK quillith"}, "holds the name"),
        ({"evidence": "<script>"}, "a number or a short word"),
        ({"received": "2099-01-01"}, "lies ahead"),
        ({"received": "31.1.2026"}, "2026-01-31"),
        ({"jurisdiction": "mars"}, "no deadline is known"),
    ],
)
def test_wrong_requests_are_refused_without_the_name(tmp_path, arguments, said):
    store = Desk.create(tmp_path / "desk")
    with pytest.raises(RequestError, match=said) as refused:
        receive(store, **{"what": "person", "subjects": [CANARY], **arguments})
    assert "zorvane" not in str(refused.value).lower()
    assert not store.ledger().cases


@pytest.mark.parametrize("beside", ["something made", "nothing else"])
@pytest.mark.parametrize("damage", ["empty", "missing"])
def test_a_ledger_that_is_gone_is_not_replaced_by_a_new_one(tmp_path, damage, beside):
    """Emptied by a full disk, it was opened anew by the next letter: nothing that was deployed was in force any more."""
    desk, case, _ = lived(tmp_path / "desk")
    if beside == "something made":
        (desk.folder / f"{case}-1").mkdir()
    for file in desk.folder.glob(f"{DATABASE}-*"):
        file.unlink()
    if damage == "empty":
        (desk.folder / DATABASE).write_bytes(b"")
    else:
        (desk.folder / DATABASE).unlink()
    for again in (Desk.create, lambda folder: Desk.open(folder).ledger()):
        with pytest.raises(CorruptArtifact, match="bring back a copy of it"):
            again(desk.folder)
    left = {OPENED, *([DATABASE] if damage == "empty" else []), *([f"{case}-1"] if beside == "something made" else [])}
    assert {item.name for item in desk.folder.iterdir()} == left, "nothing was put in its place"
    if beside == "nothing else":
        (desk.folder / OPENED).unlink()
        assert not Desk.create(desk.folder).ledger().cases, "whoever means it begins anew"
