"""``erase-plugins records`` and ``verify-certificate``: JSON, one-line errors, nothing changed by a wrong request."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from tests.records.conftest import data


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    features, labels = data()
    np.savez("data.npz", features=features, labels=labels)
    np.save("x.npy", features[:2])
    np.save("y.npy", labels[:2])
    (tmp_path / "who.txt").write_text("".join(f"Person {k}\n" for k in range(40)))
    return tmp_path


INIT = ("records", "init", "head", "--features", "data.npz", "--classes", "3", "--lam", "0.05", "--steps", "40")


def made(erase, *more):
    done = erase(*INIT, *more, "--json")
    assert done.code == 0, done.out
    return done.data


def test_a_head_from_its_first_to_its_last_command(place, erase):
    facts = made(erase, "--slots", "42", "--subjects", "who.txt", "--ids-out", "ids.txt", "--mode", "warm")
    ids = (place / "ids.txt").read_text().split()
    assert facts["ids"] == ids
    assert facts["opening"]["n"] == 42
    assert erase("records", "release", "head", "--json").data["certificate"]["releases"] == 1
    (place / "name.txt").write_text("person 5\n")
    gone = erase("records", "delete", "head", "--id", ids[3], "--subject-file", "name.txt", "--json").data
    assert gone["deleted"] == [ids[3], ids[5]]
    assert gone["rho_adaptive"] > gone["rho_non_adaptive"] > 0
    added = erase("records", "add", "head", "--features", "x.npy", "--labels", "y.npy", "--json").data["added"]
    swapped = erase("records", "replace", "head", "--id", added[0], "--id", added[1], "--features", "x.npy",
                    "--labels", "y.npy", "--json").data  # fmt: skip
    assert swapped["replaced"] == added
    status = erase("records", "status", "head", "--ids", "--json").data
    assert (status["records"], status["deleted_records"], status["published"]) == (40, 4, False)
    assert set(status["ids"]) == {*ids, *swapped["added"]} - {ids[3], ids[5]}
    out = erase("records", "release", "head", "--out", "out", "--json").data
    assert out["files"] == ["head.safetensors", "ledger.jsonl", "certificate.json"]
    verified = erase("verify-certificate", "out", "--json").data
    assert verified["valid"]
    assert (
        verified["certificate"]["records"]
        == erase("records", "verify", "head", "--json").data["certificate"]["records"]
    )
    head = verified["certificate"]["ledger"]["head"]
    assert erase("verify-certificate", "head/ledger.jsonl", "--head", head).code == 0
    alone = erase("verify-certificate", "head/ledger.jsonl")
    assert (alone.code, "may have been cut off" in alone.err) == (0, True)
    cut = (place / "head/ledger.jsonl").read_text().splitlines(keepends=True)[:-1]
    (place / "cut.jsonl").write_text("".join(cut))
    found = erase("verify-certificate", "cut.jsonl", "--certificate", "out/certificate.json")
    assert found.code == 2
    assert found.err.startswith("error: the certificate is of a ledger with 7 lines")


def test_verify_certificate_needs_neither_numpy_nor_torch(place, erase):
    made(erase)
    erase("records", "release", "head", "--out", "out")
    code = (
        "import sys\nfor name in ('numpy', 'torch', 'safetensors'): sys.modules[name] = None\n"
        "from erase_plugins.cli.main import cli\ncli(['verify-certificate', 'out', '--json'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=place, timeout=60)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["valid"] is True


def test_learning_and_deleting_need_no_torch(place, erase):
    code = (
        "import sys\nsys.modules['torch'] = None\nfrom erase_plugins.cli.main import cli\n"
        f"cli({[*INIT]!r})"
    )  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=place, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_dry_run_writes_nothing(place, erase):
    before = set(place.rglob("*"))
    assert made(erase, "--dry-run")["opening"]["edit_steps"] > 0
    assert set(place.rglob("*")) == before
    made(erase)
    ledger = (place / "head/ledger.jsonl").read_bytes()
    name = erase("records", "status", "head", "--ids", "--json").data["ids"][0]
    assert erase("records", "delete", "head", "--id", name, "--dry-run", "--json").data["deleted"] == [name]
    assert (place / "head/ledger.jsonl").read_bytes() == ledger


def test_a_head_with_a_test_seed_has_no_certificate(place, erase):
    assert made(erase, "--test-seed", "3")["certified"] is False
    erase("records", "release", "head", "--out", "out")
    found = erase("verify-certificate", "out", "--json")
    assert (found.code, found.data["valid"]) == (1, False)


WRONG = [
    (("records", "init", "head", "--features", "gone.npy", "--classes", "3"), 2, "no features at 'gone.npy'"),
    (("records", "init", "head", "--features", "who.txt", "--classes", "3"), 2, "is not .npy, .npz or .safetensors"),
    (("records", "init", "head", "--features", "x.npy", "--classes", "3"), 2, "give them with --labels"),
    (("records", "init", "head", "--features", "data.npz", "--labels", "y.npy", "--classes", "3"), 2, "do not belong together"),
    (("records", "init", "head", "--features", "data.npz"), 2, "--classes N"),
    (("records", "init", "head", "--features", "data.npz", "--classes", "2"), 2, "is not one of 0 ... 1"),
    (("records", "init", "head", "--features", "data.npz", "--classes", "3", "--slots", "5"), 2, "do not fit into 5 slots"),
    (("records", "init", "head", "--features", "data.npz", "--classes", "3", "--lam", "0"), 2, "lam is 0"),
    (("records", "init", "head", "--features", "data.npz", "--classes", "3", "--rho-dd", "7"), 2, "rho_dd is 7"),
    (("records", "init", "head", "--features", "data.npz", "--classes", "3", "--loss", "hinge"), 2, "hinge"),
    (("records", "init", "head", "--features", "data.npz", "--classes", "3", "--base", "../x\ny"), 2, "base"),
    (("records", "init", "head", "--features", "data.npz", "--classes", "3", "--subjects", "y.npy"), 2, "cannot be read as text"),
    (("records", "init", "who.txt", "--features", "data.npz", "--classes", "3"), 2, "'who.txt' is a file"),
    (("records", "delete", "nothing", "--id", "x"), 2, "no head at 'nothing'"),
    (("records", "delte", "head"), 2, "delte"),
    (("verify-certificate", "who.txt"), 2, "line 1 of the ledger is not one of ours"),
    (("verify-certificate", "gone"), 2, "no ledger at 'gone'"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "code", "text"), WRONG, ids=[f"{k}-{item[2][:20]}" for k, item in enumerate(WRONG)])
def test_wrong_requests_are_one_line_and_change_nothing(place, erase, words, code, text):
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    done = erase(*words)
    assert done.code == code, done.err
    assert text in done.err
    assert done.err.count("\n") == 1
    assert {path: path.read_bytes() for path in place.rglob("*") if path.is_file()} == before
    assert not (place / "head").exists()


def test_a_pickle_is_not_opened(place, erase):
    np.save("bad.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    done = erase("records", "init", "head", "--features", "bad.npy", "--classes", "3")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "cannot be read as numbers" in done.err


def test_names_of_people_stand_in_no_message(place, erase):
    made(erase, "--subjects", "who.txt")
    done = erase("records", "delete", "head", "--subject", "Zebulon Quux", "--json")
    assert done.code == 2
    assert "Zebulon" not in done.out + done.err


def test_what_comes_next_can_be_pasted_and_ids_have_a_place_before_anything_is_learned(place, erase):
    """Paths with spaces stood unquoted, and a place that cannot be written was found when all was done."""
    (place / "file").write_text("")
    ran = erase("records", "init", "the head", *INIT[3:], "--ids-out", "file/ids.txt")
    assert (ran.code, "'file' is no folder" in ran.err) == (2, True), ran.err
    assert not (place / "the head").exists()
    ran = erase("records", "init", "the head", *INIT[3:], "--ids-out", "new/ids.txt")
    assert (ran.code, len((place / "new" / "ids.txt").read_text().split())) == (0, 40)
    assert "erase-plugins records release 'the head'" in ran.out
    assert "erase-plugins push 'the head/releases/1' OWNER/NAME" in erase("records", "release", "the head").out


def test_a_program_is_told_what_a_person_is_told(place, erase):
    """With --json the line that published models still know the record was nowhere."""
    ids = made(erase)["ids"]
    person = erase("records", "delete", "head", "--id", ids[0])
    gone = erase("records", "delete", "head", "--id", ids[1], "--json")
    assert gone.data["hints"] == person.err.splitlines() != []
    assert gone.err == ""
    assert "hints" not in erase("records", "status", "head", "--json").data


def test_everybody_who_is_named_is_deleted_also_behind_a_byte_order_mark(place, erase):
    """The first person of a file that Windows saved could never be deleted; a file hid the name given beside it."""
    (place / "who.txt").write_text("".join(f"Person {k}\n" for k in range(40)), encoding="utf-8-sig")
    ids = made(erase, "--subjects", "who.txt")["ids"]
    (place / "gone.txt").write_text("Person 0\n\nPerson 7\n", encoding="utf-8-sig")
    gone = erase("records", "delete", "head", "--subject", "Person 3", "--subject-file", "gone.txt", "--json")
    assert gone.data["deleted"] == [ids[3], ids[0], ids[7]]
