"""The folder of a head: records leave every file, a kill between any two writes loses nothing, writers take turns."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import re
import shutil

import numpy as np
import pytest

from erase_plugins.artifacts import atomic, chain
from erase_plugins.errors import ArtifactError, CorruptArtifact, PushRefused, RequestError
from erase_plugins.records.certificate import CERTIFICATE, LEDGER, certificate, to_text, verify
from erase_plugins.records.options import HeadOptions
from erase_plugins.records.release import check_push, write_release
from erase_plugins.records.state import KEY, STATE, State
from erase_plugins.records.store import Records
from tests.records.conftest import OPTIONS, data


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# ---- what a head does --------------------------------------------------------------------------------------------


def test_the_file_tells_the_same_certificate_as_the_head(learned):
    head, ids = learned
    write_release(head.folder)
    head.delete(ids[:2])
    found = head.certificate()
    assert verify(head.folder / LEDGER) == {**found, "anchored": False, "weights": False}
    assert found["certified"]
    assert [item["id"] for item in found["records"]] == ids[:2]
    assert next(iter(found)) == "rho_adaptive"
    assert found["rho_adaptive"] == pytest.approx(head.account().segment(60) / 4)


def test_deletion_changes_the_weights_and_addition_fills_a_slot(learned):
    head, ids = learned
    before = State.read(head.folder)
    head.delete(ids[3:5])
    after = State.read(head.folder)
    assert (before.weights != after.weights).all()
    assert len(after.rows) == 38
    new = head.add(*data(6, 4))
    assert len(new) == 6
    assert not set(new) & set(ids)
    with pytest.raises(RequestError, match="1 records for 0 free slots of 44"):
        head.add(*data(1, 5))
    swapped = head.replace(new[:2], *data(2, 6))
    assert set(head.ids()) == {*ids[:3], *ids[5:], *new[2:], *swapped}


def test_a_record_is_in_no_file_after_its_deletion(tmp_path):
    X, y = data()
    X[7] = [0.123456789, -0.3, 0.2, 0.111]
    head, ids = Records.create(tmp_path / "head", X, y, OPTIONS)
    marker = X[7, 0].tobytes()
    row = HeadOptions(classes=3).rule.rows(X)[7]
    assert np.linalg.norm(row) == pytest.approx(1)
    assert row[0].tobytes() in (head.folder / STATE).read_bytes()
    (head.folder / f".{STATE}.abcdefgh.tmp").write_bytes((head.folder / STATE).read_bytes())  # a killed run's
    write_release(head.folder)
    head.delete([ids[7]])
    for number in (*row, *X[7]):
        hits = [name for name, data_ in content(head.folder).items() if np.float64(number).tobytes() in data_]
        assert hits == []
    assert marker not in (head.folder / STATE).read_bytes()
    assert ids[7] not in State.read(head.folder).ids  # its random name stays in the ledger


def test_a_subject_is_found_by_name_and_stands_nowhere(learned):
    head, ids = learned
    assert head.ids("person 7") == [ids[7]] == head.ids("  PERSON   7 ")
    write_release(head.folder)
    head.delete(head.ids("Person 7"))
    with pytest.raises(RequestError, match="no record of that subject"):
        head.ids("Person 7")
    assert not any(re.search(rb"(?i)person \d", item) for item in content(head.folder).values())
    other = head.folder.parent / "other"
    shutil.copytree(head.folder, other)
    (other / KEY).write_bytes(bytes(32))
    with pytest.raises(RequestError, match="no record of that subject"):
        Records.open(other).ids("Person 8")


def test_a_person_with_more_records_than_the_certificate_speaks_of_is_refused(tmp_path):
    X, y = data()
    with pytest.raises(RequestError, match=r"one subject has 2 records.*group=2"):
        Records.create(tmp_path / "a", X, y, OPTIONS, ["same", "Same", *map(str, range(38))])
    assert not (tmp_path / "a").exists()
    twice = HeadOptions(**{**OPTIONS.__dict__, "group": 2})
    head, ids = Records.create(tmp_path / "b", X, y, twice, ["same", "Same", *map(str, range(38))])
    assert head.ids("same") == ids[:2]
    with pytest.raises(RequestError, match="one subject has 3 records"):
        head.add(*data(1, 1), ["SAME"])


# ---- releases ----------------------------------------------------------------------------------------------------


def test_the_fifth_of_four_releases_is_refused_and_a_person_may_raise_the_budget(learned):
    head, ids = learned
    for number in range(4):
        write_release(head.folder)
        head.delete([ids[number]])
    before = content(head.folder / "releases")
    with pytest.raises(PushRefused, match="release 5 of 4"):
        write_release(head.folder)
    assert content(head.folder / "releases") == before
    assert head.account().refused == 1
    with pytest.raises(RequestError, match="4 releases are allowed already"):
        write_release(head.folder, raise_to=4)
    write_release(head.folder, raise_to=5)
    assert [entry["event"] for entry in chain.read(head.folder / LEDGER)][-3:] == ["refused", "budget", "release"]


def test_the_same_weights_are_released_once(learned):
    head, _ = learned
    first = content(write_release(head.folder))
    assert content(write_release(head.folder)) == first
    out = write_release(head.folder, head.folder.parent / "out")
    assert len(head.account().releases) == 1
    with pytest.raises(ArtifactError, match="exists already"):
        write_release(head.folder, out)


def test_what_is_in_the_way_costs_no_release(learned, tmp_path):
    head, _ = learned
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(ArtifactError, match="mine"):
        write_release(head.folder, tmp_path / "out", force=True)
    assert head.account().releases == []


def test_a_release_older_than_a_deletion_is_not_pushed(learned):
    head, ids = learned
    place = write_release(head.folder)
    check_push(place, "me/head", dry_run=True)
    assert head.account().releases[0]["where"] == ["file"]
    check_push(place, "me/head")
    check_push(place, "me/head")
    assert head.account().releases[0]["where"] == ["file", "hub:me/head"]
    head.delete(ids[:1])
    with pytest.raises(PushRefused, match="records were deleted after release 1"):
        check_push(place, "me/head")


def test_a_certificate_without_its_ledger_is_not_pushed(tmp_path):
    """As an artifact of another kind may carry it in its manifest."""
    from types import SimpleNamespace

    from erase_plugins.records.release import erase_before_push

    def bundle(mechanism):
        manifest = SimpleNamespace(certificate=SimpleNamespace(mechanism=mechanism, certified=True))
        return SimpleNamespace(artifact=SimpleNamespace(path=tmp_path, manifest=manifest))

    erase_before_push(bundle("dp-lora"), "me/other")
    with pytest.raises(PushRefused, match="cannot be checked"):
        erase_before_push(bundle("noisy-gd"), "me/head")


def test_a_seed_voids_the_certificate(tmp_path):
    seeded = HeadOptions(**{**OPTIONS.__dict__, "test_seed": 3})
    heads = [Records.create(tmp_path / name, *data(), seeded)[0] for name in "ab"]
    assert (State.read(heads[0].folder).weights == State.read(heads[1].folder).weights).all()
    place = write_release(heads[0].folder)
    assert not verify(place)["certified"]
    with pytest.raises(PushRefused, match="can be drawn again"):
        check_push(place, "me/head")
    head, ids = Records.create(tmp_path / "c", *data(), OPTIONS)
    with pytest.raises(RequestError, match="would void its certificate"):
        Records.open(head.folder, test_seed=3).delete(ids[:1])
    assert b"seed" not in b"".join(content(tmp_path).values())


def test_noise_is_never_the_same_and_kept_nowhere(tmp_path):
    heads = [Records.create(tmp_path / name, *data(), OPTIONS)[0] for name in "ab"]
    assert (State.read(heads[0].folder).weights != State.read(heads[1].folder).weights).all()
    from safetensors.numpy import load_file

    assert set(load_file(heads[0].folder / STATE)) == {"weight", "rows", "labels", "ids", "subjects"}


def test_a_state_with_more_in_it_is_not_released(learned):
    """A hidden field is how a deleted record would come back."""
    from safetensors import safe_open
    from safetensors.numpy import load_file, save_file

    head, _ = learned
    with safe_open(head.folder / STATE, "numpy") as file:
        metadata = file.metadata()
    arrays = load_file(head.folder / STATE)
    save_file({**arrays, "momentum": np.ones(3)}, head.folder / STATE, metadata)
    with pytest.raises(CorruptArtifact, match="momentum"):
        write_release(head.folder)


# ---- words -------------------------------------------------------------------------------------------------------


def test_the_certificate_says_the_adaptive_bound_first_and_nothing_it_must_not(learned):
    head, ids = learned
    place = write_release(head.folder)
    assert to_text(head.certificate()).startswith("rho_adaptive: nothing to say, no record was deleted yet")
    assert json.loads((place / CERTIFICATE).read_text())["rho_adaptive"] is None
    head.delete(ids[:2])
    place = write_release(head.folder)
    for text in (to_text(head.certificate()), (place / CERTIFICATE).read_text()):
        assert text.index("rho_adaptive") == len(text) - len(text.lstrip('{\n "'))
        for word in ("compliant", "GDPR", "guaranteed removal", "retrained", "zero risk"):
            assert word.lower() not in text.lower()
    assert "records of one person: at most 1" in to_text(head.certificate())
    assert json.loads((place / CERTIFICATE).read_text())["ledger"]["head"] == head.account().head


# ---- nothing lost ------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """The process is gone."""


def killed_at(monkeypatch, moment, work):
    """Runs ``work`` and kills it at the given file operation; the number of operations if it came to its end."""
    seen = [0]
    originals = {name: getattr(os, name) for name in ("replace", "fsync", "chmod")}

    def counted(name):
        def call(*arguments, **options):
            seen[0] += 1
            if seen[0] == moment:
                raise Killed(name)
            return originals[name](*arguments, **options)

        return call

    with monkeypatch.context() as patch:
        for name in originals:
            patch.setattr(os, name, counted(name))
        patch.setattr(atomic, "_recover", lambda target: None)
        try:
            work()
        except Killed:
            return None
    return seen[0]


@pytest.mark.parametrize("action", ["delete", "replace", "add", "release", "raise"])
def test_a_kill_between_any_two_writes_leaves_the_old_or_the_new_state(learned, monkeypatch, action, tmp_path):
    head, ids = learned
    write_release(head.folder)
    head.delete(ids[:1])
    works = {
        "delete": lambda one: one.delete(ids[1:3]),
        "replace": lambda one: one.replace(ids[1:2], *data(1, 1)),
        "add": lambda one: one.add(*data(1, 1)),
        "release": lambda one: write_release(one.folder),
        "raise": lambda one: write_release(one.folder, raise_to=9),
    }
    before = head.account().lines
    outcomes, moment = set(), 0
    while True:
        moment += 1
        place = tmp_path / f"killed-{moment}"
        shutil.copytree(head.folder, place)
        one = Records.open(place)
        done = killed_at(monkeypatch, moment, lambda one=one: works[action](one))
        account = one.account()  # consistent, or this raises
        outcomes.add(account.lines > before)
        assert sorted(one.ids()) == sorted(account.present)
        assert not [item for item in place.iterdir() if item.suffix == ".tmp" and item.is_file()]
        one.delete(ids[5:6])  # work goes on
        verify(write_release(place))
        if done is not None:
            break
    assert moment > 3
    assert outcomes == {False, True}


def test_a_killed_init_is_made_again(monkeypatch, tmp_path):
    outcomes, moment = set(), 0
    while True:
        moment += 1
        place = tmp_path / f"killed-{moment}"
        done = killed_at(monkeypatch, moment, lambda place=place: Records.create(place, *data(), OPTIONS))
        learned = (place / STATE).is_file()
        outcomes.add(learned)
        if learned:
            assert Records.open(place).account().lines == 2
        else:
            Records.create(place, *data(), OPTIONS)
        if done is not None:
            break
    assert outcomes == {False, True}


def test_weights_and_ledger_of_different_days_are_refused(learned, tmp_path):
    head, ids = learned
    old = tmp_path / "old"
    shutil.copytree(head.folder, old)
    head.delete(ids[:1])
    head.delete(ids[1:2])
    for name in (STATE, LEDGER):
        mixed = tmp_path / name
        shutil.copytree(head.folder, mixed)
        shutil.copy(old / name, mixed / name)
        with pytest.raises(CorruptArtifact):
            Records.open(mixed).account()


def test_exchanged_weights_are_refused(learned):
    head, _ = learned
    state = (head.folder / STATE).read_bytes()
    start = state.index(State.read(head.folder).weights.tobytes())
    (head.folder / STATE).write_bytes(state[: start + 3] + bytes([state[start + 3] ^ 1]) + state[start + 4 :])
    with pytest.raises(CorruptArtifact, match="does not hold what was written"):
        head.account()


def _delete_one(folder, name):
    Records.open(folder).delete([name])


def test_two_writers_take_turns(learned):
    head, ids = learned
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_delete_one, args=(head.folder, name)) for name in ids[:4]]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert {life.id for life in head.account().deleted} == set(ids[:4])


def _work(folder):
    one = Records.open(folder)
    while True:
        new = one.add(*data(1))
        write_release(folder, raise_to=one.account().max_releases + 1)
        one.delete(new)


def test_killed_at_random_moments_the_head_goes_on(learned):
    """Without warning, twenty times; every state that is found is a possible one."""
    head, _ = learned
    context = multiprocessing.get_context("fork")
    draw = np.random.default_rng(9)
    releases = 0
    for _ in range(20):
        worker = context.Process(target=_work, args=(head.folder,))
        worker.start()
        worker.join(float(draw.uniform(0.005, 0.08)))
        assert worker.exitcode is None, "the work ended by itself"
        worker.kill()
        worker.join()
        account = head.account()
        assert sorted(head.ids()) == sorted(account.present)
        assert len(account.releases) >= releases
        releases = len(account.releases)
        spare = account.present[40:]
        if spare:
            head.delete(spare)
    assert head.account().lines > 2
    verify(head.folder / LEDGER)
    assert not [item for item in head.folder.iterdir() if item.suffix == ".tmp" and item.is_file()]


# ---- bad input ---------------------------------------------------------------------------------------------------

X, Y = data()
BAD = {
    "NaN": (np.where(np.eye(40, 4) > 0, np.nan, X), Y, "row 0 holds NaN or infinity"),
    "infinity": (np.where(np.eye(40, 4) > 0, np.inf, X), Y, "row 0 holds NaN or infinity"),
    "no matrix": (X[0], Y, "one row per record"),
    "text": (X.astype(str), Y, "no matrix of numbers"),
    "label out of range": (X, Y + 1, "is not one of 0 ... 2"),
    "negative label": (X, -Y - 1, "is not one of 0 ... 2"),
    "half a label": (X, Y + 0.5, "is not one of 0 ... 2"),
    "NaN label": (X, np.where(Y == 1, np.nan, Y), "a label is NaN"),
    "two labels per row": (X, np.stack([Y, Y], 1), "one label per row"),
    "fewer labels": (X, Y[:-1], "40 rows and 39 labels"),
    "too many records": (np.repeat(X, 2, axis=0), np.repeat(Y, 2), "80 records do not fit into 44 slots"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_data_make_no_head(tmp_path, name):
    features, labels, text = BAD[name]
    with pytest.raises(RequestError, match=text):
        Records.create(tmp_path / "head", features, labels, OPTIONS)
    assert not (tmp_path / "head").exists()


def test_bad_requests_change_nothing(learned):
    head, ids = learned
    head.delete(ids[:1])
    before = content(head.folder)
    asked = {
        "is deleted already": lambda: head.delete(ids[:1]),
        "was never here": lambda: head.delete(["r" + "0" * 16]),
        "never made from its content": lambda: head.delete(["a" * 64]),
        "named twice": lambda: head.delete([ids[1], ids[1]]),
        "no record was named": lambda: head.delete([]),
        "give one for each": lambda: head.replace(ids[1:3], *data(1)),
        "nothing to replace": lambda: head.replace([], *data(1)),
        "have 3 features, this head 4": lambda: head.add(data(1)[0][:, :3], data(1)[1]),
        "is not one of": lambda: head.add(data(1)[0], [7]),
        "2 subjects for 1 records": lambda: head.add(*data(1), ["a", "b"]),
        "is empty": lambda: head.add(*data(1), [" "]),
    }
    for text, work in asked.items():
        with pytest.raises(RequestError, match=re.escape(text)):
            work()
        assert content(head.folder) == before, text
    with pytest.raises(ArtifactError, match="no head at 'gone'"):
        Records.open(head.folder.parent / "gone")
    with pytest.raises(ArtifactError, match="not empty"):
        Records.create(head.folder, *data(), OPTIONS)


def test_everybody_may_be_deleted(learned):
    head, ids = learned
    head.delete(ids)
    assert head.ids() == []
    assert len(head.add(*data(3))) == 3


def test_the_account_is_what_the_certificate_is_made_of(learned):
    head, _ = learned
    assert certificate(head.account()) == head.certificate()
    with contextlib.suppress(OSError):
        assert oct((head.folder / STATE).stat().st_mode)[-3:] == "600"


def test_a_ledger_that_lost_its_end_is_refused_and_one_lost_line_comes_back(learned):
    """The state knows the last line, so that no release is forgotten."""
    head, ids = learned
    write_release(head.folder)
    head.delete(ids[:1])
    write_release(head.folder)
    path = head.folder / LEDGER
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    for kept in range(len(lines) - 1):
        path.write_bytes(b"".join(lines[:kept]))
        with pytest.raises(CorruptArtifact):
            head.account()
    path.unlink()
    with pytest.raises(CorruptArtifact):
        head.account()
    path.write_bytes(b"".join(lines[:-1]))  # as a kill before the last write would leave it
    assert len(head.account().releases) == 2
    assert path.read_bytes() == whole
