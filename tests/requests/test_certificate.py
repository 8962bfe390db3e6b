"""The words of a certificate: what the ledger does not show is not said, and what was handed out stays checkable."""

from __future__ import annotations

import pytest

from erase_plugins.errors import CorruptArtifact
from erase_plugins.requests import decisions
from erase_plugins.requests.certificate import SCHEMA, SCHEMAS, certificate, to_json, verify
from erase_plugins.requests.intake import receive
from erase_plugins.requests.store import Desk
from tests.cli.conftest import erase  # noqa: F401
from tests.requests.conftest import ARTIFACT, BASE, CANARY, attempted, triaged

PAIR = [["forget_probability", "base", 0.9, None, None, 0], ["forget_probability", "edited", 0.4, None, None, 0]]
ALONE, UNTRIED = "no model that never saw the subject was measured beside it", "no attack was run"


def measured(folder, rows, suite="language"):
    """A desk with one request that was made with a guard and evaluated, and the request's id."""
    desk = Desk.create(folder)
    name, _ = receive(desk, "person", [CANARY])
    decisions.verify_identity(desk, name, "account")
    triaged(desk, name, ("npo",))
    common = {"case": name, "attempt": 1}
    ledger = desk.append(lambda _: [
        {"event": "started", **common, "remedy": "npo", "seed": 0, "records": []},
        {"event": "made", **common, "artifact": ARTIFACT, "base": BASE, "guard": "c" * 64},
        {"event": "evaluated", **common, "suite": suite, "rows": [*PAIR, *rows], "left": 0.1, "loss": 0.1,
         "passed": True, "reasons": []},
    ])  # fmt: skip
    return ledger, ledger.case(name)


@pytest.mark.parametrize(
    ("rows", "suite", "last"),
    [
        ([], "run", f"{ALONE}, and {UNTRIED}"),
        ([["forget_probability", "reference", 0.3, None, None, 0]], "language", UNTRIED),
        ([["relearned_probability", "edited", 0.3, None, None, 0]], "language", ALONE),
        ([], "attacks", ALONE),
    ],
)
def test_what_was_measured_is_not_said_to_be_missing(tmp_path, rows, suite, last):
    assert certificate(*measured(tmp_path / "desk", rows, suite))["says"][-1] == last


def test_the_bounds_of_passing_are_told(tmp_path):
    """ "The evaluation passed" was all, whatever share of the subject had been allowed to be left."""
    said = certificate(*measured(tmp_path / "desk", []))["says"]
    assert (
        "to pass, at most 0.1 of the subject may be left, and no share of what stays may fall by more than 0.1" in said
    )


def test_nobody_claims_that_a_guard_is_in_force(tmp_path):
    said = " ".join(certificate(*measured(tmp_path / "desk", []))["says"])
    assert "whether it was put there is not in this record" in said
    assert "stands in front" not in said


def test_who_knows_nothing_is_named_beside_the_numbers(tmp_path):
    rows = [["forget_probability", "unknown", 0.4, None, None, 0]]
    said = certificate(*measured(tmp_path / "desk", rows))["says"]
    assert "forget_probability of texts about somebody whom the model cannot know is 0.4" in said


@pytest.mark.parametrize("schema", SCHEMAS)
def test_certificates_of_every_schema_are_checked_in_their_own_words(tmp_path, schema):
    ledger, case = measured(tmp_path / "desk", [["forget_probability", "reference", 0.3, None, None, 0]])
    data = certificate(ledger, case, schema)
    assert any("stands in front of the model" in text for text in data["says"]) == (schema == 1)
    (tmp_path / "certificate.json").write_text(to_json(data))
    assert verify(tmp_path)["says"] == data["says"]
    for changed in (
        {**data, "schema": schema % len(SCHEMAS) + 1},
        {**data, "schema": "9"},
        {**data, "says": data["says"][1:]},
    ):
        (tmp_path / "certificate.json").write_text(to_json(changed))
        with pytest.raises(CorruptArtifact, match="something else about"):
            verify(tmp_path)


def test_what_a_newer_version_made_is_called_newer_and_no_forgery(tmp_path):
    ledger, case = measured(tmp_path / "desk", [])
    data = certificate(ledger, case)
    for newer, told in (
        (
            {**data, "schema": SCHEMA + 1, "lines": [{"event": "appealed"}], "more": 1},
            f"has schema {SCHEMA + 1}, this version reads up to {SCHEMA}: a",
        ),
        ({**data, "lines": [*data["lines"][:-1], {**data["lines"][-1], "event": "appealed"}]}, "event 'appealed'; a"),
        ({**data, "lines": [{**data["lines"][0], "via": "post"}, *data["lines"][1:]]}, "field 'via'; a"),
    ):
        (tmp_path / "certificate.json").write_text(to_json(newer))
        with pytest.raises(CorruptArtifact, match=f"{told}.* newer erase-plugins.*neither confirm nor refute"):
            verify(tmp_path)


def test_whoever_checks_is_told_the_verdict_and_what_was_not_compared(erase, tmp_path):  # noqa: F811
    ledger, case = measured(tmp_path / "desk", [])
    (tmp_path / "certificate.json").write_text(to_json(certificate(ledger, case)))
    loose = erase("verify-certificate", tmp_path)
    assert "  the evaluation passed\n" in loose.out
    assert "checked: no line was changed" in loose.out
    assert "compared with nothing" in loose.err
    held = erase("verify-certificate", tmp_path, "--head", ledger.head)
    assert (held.code, held.out, "compared" in held.err) == (0, loose.out, False)
    desk = erase("verify-certificate", tmp_path / "desk")
    assert desk.code == 2
    assert "'erase-plugins request status' checks" in desk.err


def test_what_failed_may_be_measured_with_another_suite_and_the_certificate_tells_of_both(tmp_path):
    desk = Desk.create(tmp_path / "desk")
    name, _ = receive(desk, "person", [CANARY])
    decisions.verify_identity(desk, name, "account")
    triaged(desk, name)
    attempted(desk, name, 1, False)
    line = {key: value for key, value in desk.ledger().case(name).last["evaluated"].items()
            if key in ("event", "case", "attempt", "rows", "left", "loss", "passed", "reasons")}  # fmt: skip
    for suite in ("attacks", "erase-eval"):
        desk.append(lambda _, suite=suite: [{**line, "suite": suite}])
    assert desk.ledger().case(name).state == "failed", "one attempt that was measured three times is one attempt"
    ledger = desk.append(lambda _: [{**line, "suite": "language", "passed": True, "reasons": []}])
    data = certificate(ledger, ledger.case(name))
    assert (data["state"], data["suite"], data["passed"]) == ("passed", "language", True)
    for suite in ("quick", "attacks", "erase-eval"):
        assert f"measured before with suite {suite}, it did not pass: target_rate fell from 1 to 0.9" in data["says"]
    (tmp_path / "certificate.json").write_text(to_json(data))
    assert verify(tmp_path)["says"] == data["says"]


def test_the_certificate_says_what_became_of_what_was_made(tmp_path):
    """Taken out of use and closed, a request's certificate read like that of one in force."""
    desk = Desk.create(tmp_path / "desk")
    name, _ = receive(desk, "person", [CANARY])
    decisions.verify_identity(desk, name, "account")
    triaged(desk, name)

    def said() -> list[str]:
        ledger = desk.ledger()
        data = certificate(ledger, ledger.case(name))
        (tmp_path / "certificate.json").write_text(to_json(data))
        assert verify(tmp_path)["says"] == data["says"]
        return data["says"]

    assert not any("put to use" in text for text in said())
    attempted(desk, name, 1, True)
    assert "what was made was not put to use" in said()
    day = desk.ledger().time[:10]
    decisions.deploy(desk, name)
    assert f"what was made was put to use on {day}" in said()
    decisions.revoke(desk, name, "mistake", "account")
    decisions.decide(desk, name, "close")
    gone = (
        f"what was made was put to use on {day} and taken out of use on {day} (mistake): nothing is in force for this"
    )
    assert f"{gone} request" in said()
    other, _ = receive(desk, "person", ["Maribex Tressok"])
    ledger = decisions.decide(desk, other, "reject", "unfounded")
    assert certificate(ledger, ledger.case(other))["says"][0] == f"the request was rejected on {day}: unfounded"
    assert certificate(ledger, ledger.case(name), 2)["says"][0].startswith("with suite"), "as it was handed out"
