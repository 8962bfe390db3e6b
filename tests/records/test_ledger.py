"""Tampered ledgers: every kind is found by `verify`, most of them by the ledger alone."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil

import pytest

from erase_plugins.artifacts import chain
from erase_plugins.errors import ArtifactError, CorruptArtifact
from erase_plugins.records.certificate import CERTIFICATE, LEDGER, certificate, to_json, verify
from erase_plugins.records.ledger import Account, replay
from erase_plugins.records.release import write_release
from erase_plugins.records.store import Records
from erase_plugins.records.weights import HEAD
from tests.records.conftest import OPTIONS, data


@pytest.fixture(scope="session")
def history(tmp_path_factory):
    """A release after: learn, release, delete two, replace one, release, add one, budget raised."""
    place = tmp_path_factory.mktemp("ledger")
    features, labels = data()
    head, ids = Records.create(place / "head", features, labels, OPTIONS)
    write_release(head.folder)
    head.delete(ids[:2])
    head.replace(ids[2:3], *data(1, 1))
    write_release(head.folder)
    head.went_to(2, "hub:tester/head")
    head.add(*data(1, 2))
    return write_release(head.folder, place / "out", raise_to=6)


def lines_of(folder):
    return (folder / LEDGER).read_bytes().split(b"\n")[:-1]


def bodies_of(folder):
    return [{k: v for k, v in entry.items() if k not in ("prev", "hash")} for entry in chain.read(folder / LEDGER)]


#: open learn release edit edit release release edit budget release
EVENTS = ["open", "learn", "release", "edit", "edit", "release", "release", "edit", "budget", "release"]


def swap(lines, a, b):
    lines[a], lines[b] = lines[b], lines[a]
    return lines


def texts(old, new, line=None):
    def change(lines):
        places = range(len(lines)) if line is None else [line]
        changed = [lines[k].replace(old, new, 1) if k in places else lines[k] for k in range(len(lines))]
        assert changed != lines
        return changed

    return change


#: the bytes are changed and nothing else
RAW = {
    "first line cut": lambda lines: lines[1:],
    "middle line cut": lambda lines: lines[:4] + lines[5:],
    "two lines swapped": lambda lines: swap(lines, 3, 4),
    "order turned round": lambda lines: lines[::-1],
    "line doubled": lambda lines: [*lines[:3], lines[2], *lines[3:]],
    "last line doubled": lambda lines: [*lines, lines[-1]],
    "whole ledger doubled": lambda lines: [*lines, *lines],
    "empty": lambda lines: [],
    "blank line": lambda lines: [*lines[:2], b"", *lines[2:]],
    "spaces": texts(b'":', b'": ', 3),
    "no JSON": lambda lines: [*lines[:3], b"deleted", *lines[4:]],
    "a list": lambda lines: [*lines[:3], b"[]", *lines[4:]],
    "carriage returns": lambda lines: [line + b"\r" for line in lines],
    "half a line": lambda lines: [*lines[:-1], lines[-1][: len(lines[-1]) // 2]],
    "letters that are no ASCII": texts(b'"file"', '"fíle"'.encode(), 2),
    "a name twice": texts(b'{"', b'{"n":1,"', 2),
    "fewer steps": texts(b'"steps":60', b'"steps":59', 1),
    "less noise": texts(b'"sigma2":0.', b'"sigma2":0.0', 0),
    "another time": texts(b'"time":"2', b'"time":"3', 5),
    "another hash of weights": texts(b'"sha256":"', b'"sha256":"0', 2),
    "another previous hash": texts(b'"prev":"', b'"prev":"0', 4),
    "NaN": texts(b'"lam":0.05', b'"lam":NaN', 0),
}  # fmt: skip


def put(line, **fields):
    def change(bodies):
        assert set(fields) - {"hidden"} <= set(bodies[line]) or fields.get("hidden")
        bodies[line] |= {k: v for k, v in fields.items() if k != "hidden"}
        return bodies

    return change


def extra(line, **fields):
    return put(line, hidden=True, **fields)


def drop(line, name=None):
    def change(bodies):
        if name is None:
            del bodies[line]
        else:
            del bodies[line][name]
        return [{**body, "seq": place} for place, body in enumerate(bodies)]

    return change


def insert(line, **body):
    def change(bodies):
        bodies.insert(line, {"time": bodies[line - 1]["time"], **body})
        return [{**item, "seq": place} for place, item in enumerate(bodies)]

    return change


def resurrect(bodies):
    """A deleted record is deleted once more."""
    bodies[7]["removed"] = bodies[3]["removed"][:1]
    return bodies


#: hashes are made anew, but the history does not hold together
FORGED = {
    "seed on record": extra(0, seed=3),
    "random state on record": extra(1, rng_state="x"),
    "unknown field": extra(2, note="fine"),
    "field missing": drop(1, "steps"),
    "other schema": put(0, schema=2),
    "schema as text": put(0, schema="1"),
    "other kind of ledger": put(0, kind="requests"),
    "unknown event": put(4, event="forget"),
    "fewer steps of learning": put(1, steps=59),
    "fewer steps of an edit": put(3, steps=1),
    "edit of no steps": put(3, steps=0),
    "steps that are no number": put(3, steps="60"),
    "steps that are true": put(3, steps=True),
    "an edit called fresh": put(3, fresh=True),
    "less noise than the budget": put(0, sigma2=1e-9),
    "more noise than the budget": lambda b: put(0, sigma2=b[0]["sigma2"] * 2)(b),
    "lam too small to count": put(0, lam=1e-300, contraction=1.0),
    "noise too small to count": put(0, sigma2=5e-324),
    "another preset": put(0, preset="paper"),
    "larger step than is stable": put(0, eta=100.0),
    "contraction of another step": put(0, contraction=0.5),
    "smaller gradient bound": put(0, lipschitz=0.1),
    "smaller curvature": put(0, smoothness=0.01),
    "other loss": put(0, loss="logistic"),
    "loss without proof": put(0, loss="squared"),
    "more slots": put(0, n=10**6),
    "fewer slots than records": put(0, n=10),
    "smaller budget of leakage": put(0, rho_dp=0.01),
    "rho_dd above rho_dp": put(0, rho_dd=0.6),
    "delta of 1": put(0, delta=1.0),
    "infinite noise": put(0, sigma2=10**400),
    "negative lam": put(0, lam=-0.05),
    "group of half a record": put(0, group=0.5),
    "float32": put(0, dtype="float32"),
    "rank of a full head": put(0, rank=2),
    "fewer releases allowed": put(0, max_releases=1),
    "budget lowered": put(8, max_releases=3),
    "release not numbered on": put(9, n=4),
    "release numbered 0": put(2, n=0),
    "release with the weights of another": lambda b: put(9, sha256=b[2]["sha256"])(b),
    "other weights in a second place": lambda b: put(6, sha256=b[2]["sha256"])(b),
    "the same place twice": put(6, where="file"),
    "a path as place": put(2, where="/home/somebody/head"),
    "learning left out": drop(1),
    "learning twice": insert(2, event="learn", steps=60),
    "opened twice": lambda b: [*b[:2], {**b[0], "seq": 2}, *[{**x, "seq": x["seq"] + 1} for x in b[2:]]],
    "opening left out": drop(0),
    "release before learning": lambda b: [{**x, "seq": k} for k, x in enumerate(swap(b, 1, 2))],
    "a number left out": lambda b: [*b[:5], *[{**x, "seq": x["seq"] + 1} for x in b[5:]]],
    "time goes back": put(5, time="2001-01-01T00:00:00Z"),
    "time that is none": put(5, time="yesterday"),
    "deleted twice": resurrect,
    "a stranger is deleted": put(3, removed=["r0123456789abcdef"]),
    "a record twice in an edit": lambda b: put(3, removed=b[3]["removed"][:1] * 2)(b),
    "the hash of a content as id": put(3, removed=[hashlib.sha256(b"row").hexdigest()]),
    "a deleted id comes back": lambda b: put(7, added=b[3]["removed"][:1])(b),
    "an edit of nothing": put(7, added=[]),
    "replaced one for two": lambda b: put(4, replaced=[b[4]["replaced"][0] + ["r0123456789abcdef"]])(b),
    "refused within the budget": insert(9, event="refused", what="release"),
    "more records than slots": lambda b: put(7, added=[f"r{k:016x}" for k in range(9)])(b),
}  # fmt: skip

#: hashes are made anew and the history is possible: only what was kept elsewhere tells
REWRITTEN = {
    "last line cut": lambda b: b[:-1],
    "last two lines cut": lambda b: b[:-2],
    "the deletion never was": lambda b: [{**x, "seq": k} for k, x in enumerate([*b[:3], *b[4:]])],
    "a release never was": lambda b: b[:7],
    "another record was deleted": lambda b: put(3, removed=[b[0]["ids"][9], b[0]["ids"][10]])(b),
    "a replaced record was deleted": lambda b: put(4, removed=[b[4]["replaced"][0][0]], replaced=[], added=[b[4]["replaced"][0][1]])(b),
    "budget raised higher": put(8, max_releases=60),
    "another delta": put(0, delta=1e-3),
    "another name of the ledger": put(0, ledger="0" * 32),
    "another base": put(0, base="other"),
    "another time": put(9, time="2099-01-01T00:00:00Z"),
    "other weights": put(9, sha256="0" * 64),
}  # fmt: skip
NAMES = [*(("raw", name) for name in RAW), *(("forged", name) for name in FORGED)]


def tampered(folder, tmp_path, kind, name):
    out = tmp_path / "copy"
    shutil.copytree(folder, out)
    if kind == "raw":
        lines = RAW[name](lines_of(folder))
        (out / LEDGER).write_bytes(b"".join(line + b"\n" for line in lines))
    else:
        table = FORGED if kind == "forged" else REWRITTEN
        bodies = table[name](copy.deepcopy(bodies_of(folder)))
        (out / LEDGER).write_text(chain.text(chain.linked(bodies)), encoding="ascii")
    assert (out / LEDGER).read_bytes() != (folder / LEDGER).read_bytes()
    return out


def test_the_history_is_what_the_cases_take_it_for(history):
    assert [entry["event"] for entry in chain.read(history / LEDGER)] == EVENTS
    assert len(RAW) + len(FORGED) + len(REWRITTEN) > 50
    assert verify(history)["certified"]


@pytest.mark.parametrize(("kind", "name"), NAMES, ids=[name for _, name in NAMES])
def test_a_tampered_ledger_is_found_by_itself(history, tmp_path, kind, name):
    out = tampered(history, tmp_path, kind, name)
    (out / CERTIFICATE).unlink()
    (out / HEAD).unlink()
    with pytest.raises(CorruptArtifact) as caught:
        verify(out)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["other schema", "unknown event", "unknown field"])
def test_what_a_newer_version_may_have_written_is_called_that(history, tmp_path, name):
    with pytest.raises(CorruptArtifact, match=r"a newer erase-plugins .* update and check again"):
        verify(tampered(history, tmp_path, "forged", name))
    place = tmp_path / "copy" / CERTIFICATE
    shutil.copy(history / LEDGER, place.parent)
    place.write_text(json.dumps({**json.loads(place.read_text()), "schema": 2, "more": 1}))
    with pytest.raises(CorruptArtifact, match="the certificate has schema 2, this version reads up to 1"):
        verify(place.parent)


@pytest.mark.parametrize("name", REWRITTEN)
def test_a_ledger_that_was_written_anew_is_found_by_its_certificate_and_by_its_last_hash(history, tmp_path, name):
    out = tampered(history, tmp_path, "rewritten", name)
    with pytest.raises(CorruptArtifact, match="the certificate is of a ledger"):
        verify(out)
    (out / CERTIFICATE).unlink()
    (out / HEAD).unlink()
    assert not verify(out)["anchored"]  # possible in itself, and it is said that nothing was compared
    with pytest.raises(CorruptArtifact, match="cut off or written anew"):
        verify(out, chain.read(history / LEDGER)[-1]["hash"])


def test_one_changed_byte_anywhere_is_found(history, tmp_path):
    content = (history / LEDGER).read_bytes()
    out = tmp_path / LEDGER
    for place in range(0, len(content), 7):
        changed = bytearray(content)
        changed[place] ^= 1 + place % 5
        out.write_bytes(bytes(changed))
        with pytest.raises(CorruptArtifact):
            verify(out)


@pytest.mark.parametrize(
    "name", ["rho_adaptive", "certified", "records", "releases", "existing", "scope", "assumptions"]
)
def test_a_changed_certificate_is_found(history, tmp_path, name):
    out = tmp_path / "copy"
    shutil.copytree(history, out)
    found = json.loads((out / CERTIFICATE).read_text())
    found[name] = {"rho_adaptive": 1e-6, "certified": False}.get(name, found[name] and type(found[name])())
    (out / CERTIFICATE).write_text(to_json(found))
    with pytest.raises(CorruptArtifact, match=f"about '{name}'"):
        verify(out)


def test_a_number_may_differ_in_its_last_digits_and_no_more(history, tmp_path):
    """Two machines may round the same sum differently; a millionth less leakage is another claim."""
    out = tmp_path / "copy"
    shutil.copytree(history, out)
    told = (out / CERTIFICATE).read_text()
    for factor, fits in ((1 + 1e-12, True), (1 - 1e-6, False)):
        found = json.loads(told)
        found["rho_adaptive"] *= factor
        (out / CERTIFICATE).write_text(to_json(found))
        if fits:
            assert verify(out)["anchored"]
        else:
            with pytest.raises(CorruptArtifact, match="about 'rho_adaptive'"):
                verify(out)


def test_exchanged_weights_are_found(history, tmp_path):
    out = tmp_path / "copy"
    shutil.copytree(history, out)
    content = bytearray((out / HEAD).read_bytes())
    content[-1] ^= 1
    (out / HEAD).write_bytes(bytes(content))
    with pytest.raises(CorruptArtifact, match="weights of the last release"):
        verify(out)
    with pytest.raises(ArtifactError, match="no ledger at"):
        verify(tmp_path / "nowhere")


# ---- what is counted ---------------------------------------------------------------------------------------------


def account_of(events, **opened):
    """An account from (event, fields) pairs behind an opening."""
    start = {
        "event": "open",
        "schema": 1,
        "kind": "erase-plugins records",
        "ledger": "0" * 32,
        "version": "erase-plugins 0",
    }
    options = {**OPTIONS.__dict__, "slots": None, **opened.pop("options", {})}
    first = {**start, **type(OPTIONS)(**options).opening(3, 4), "ids": IDS, **opened}
    bodies = [first, {"event": "learn", "steps": first["learn_steps"]}, *events]
    return replay(chain.linked({**body, "seq": k, "time": "2030-01-01T00:00:00Z"} for k, body in enumerate(bodies)))


IDS = [f"r{k:016x}" for k in range(3)]


def release(n):
    return {"event": "release", "n": n, "where": "file", "sha256": f"{n:064x}"}


def edit(removed=(), added=(), replaced=(), steps=None, fresh=False):
    return {"event": "edit", "removed": list(removed), "added": list(added), "replaced": [list(x) for x in replaced],
            "steps": steps or STEPS, "fresh": fresh}  # fmt: skip


STEPS = OPTIONS.opening(40, 4)["edit_steps"]


def test_the_adaptive_bound_sums_over_releases_and_the_other_one_does_not():
    account = account_of([release(1), edit([IDS[1]]), release(2), edit([IDS[0]])])
    seg, learned = account.segment, account.opened["learn_steps"]
    first, second = account.lives[IDS[0]], account.lives[IDS[1]]
    # present for learning and one edit, seen twice, nothing in between
    assert account.costs(first)[0] == pytest.approx((seg(learned) + seg(STEPS) + 0) / 4, rel=1e-12)
    assert account.costs(first)[1] == pytest.approx(seg(learned + STEPS, STEPS) / 4, rel=1e-12)
    # deleted right after a release: everything later is a function of what was seen
    assert account.costs(second)[0] == pytest.approx(seg(learned) / 4, rel=1e-12)
    assert account.costs(account.lives[IDS[2]])[0] == pytest.approx(seg(learned) + seg(STEPS), rel=1e-12)


def test_the_certificate_speaks_of_the_worst_of_those_that_went_and_of_those_that_are_there():
    new = "r0000000000000099"
    account = account_of(
        [release(1), edit([IDS[1]], [new]), release(2), edit([IDS[0]]), release(3), edit(added=["r0000000000000098"])]
    )
    found, costs = certificate(account), lambda name: account.costs(account.lives[name])[0]
    assert costs(IDS[0]) > costs(IDS[1]) > 0
    assert found["rho_adaptive"] == costs(IDS[0])
    assert [item["id"] for item in found["records"]] == [IDS[1], IDS[0]]
    assert costs(IDS[2]) > costs(new) > costs("r0000000000000098") == 0
    assert (found["existing"]["records"], found["existing"]["rho"]) == (3, costs(IDS[2]))


def test_steps_that_nobody_saw_count_once():
    account = account_of([edit([IDS[1]]), edit([IDS[0]])])
    learned = account.opened["learn_steps"]
    assert account.costs(account.lives[IDS[0]]) == pytest.approx([account.segment(learned + STEPS, STEPS) / 4] * 2)
    assert account.costs(account.lives[IDS[1]]) == pytest.approx([account.segment(learned, 2 * STEPS) / 4] * 2)


def test_releases_after_the_deletion_cost_nothing():
    before = account_of([release(1), edit([IDS[0]])])
    after = account_of([release(1), edit([IDS[0]]), release(2), edit([IDS[1]]), release(3)])
    assert before.costs(before.lives[IDS[0]])[0] == after.costs(after.lives[IDS[0]])[0] > 0


def test_a_group_of_two_costs_four_times_as_much():
    one = account_of([release(1), edit([IDS[0]])])
    two = account_of([release(1), edit([IDS[0]])], options={"group": 2})
    assert two.opened["sigma2"] == pytest.approx(4 * one.opened["sigma2"], rel=1e-12)  # it pays with noise
    assert two.costs(two.lives[IDS[0]])[0] == pytest.approx(one.costs(one.lives[IDS[0]])[0], rel=1e-12)
    careless = Account({**one.opened, "group": 2})
    assert careless.segment(60) == pytest.approx(4 * one.segment(60), rel=1e-12)


def test_a_replaced_record_is_compared_with_any_other():
    new = "r" + "b" * 16
    gone, swapped = account_of([release(1), edit([IDS[0]])]), account_of([release(1), edit(replaced=[[IDS[0], new]])])
    assert swapped.costs(swapped.lives[IDS[0]])[0] == pytest.approx(4 * gone.costs(gone.lives[IDS[0]])[0], rel=1e-12)


def test_learning_anew_clears_what_nobody_saw_but_not_what_was_published():
    options = {"mode": "fresh"}
    unseen = account_of([edit([IDS[0]], steps=60, fresh=True)], options=options)
    assert unseen.costs(unseen.lives[IDS[0]]) == (0.0, 0.0)
    seen = account_of([release(1), edit([IDS[0]], steps=60, fresh=True), release(2)], options=options)
    assert seen.costs(seen.lives[IDS[0]]) == pytest.approx((seen.segment(60) / 4, 0.0))
    assert seen.costs(seen.lives[IDS[1]])[0] == pytest.approx(2 * seen.segment(60))


def test_the_number_of_releases_is_held():
    with pytest.raises(CorruptArtifact, match="release 2 of 1"):
        account_of([release(1), edit([IDS[0]]), release(2)], options={"max_releases": 1})
