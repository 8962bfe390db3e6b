"""Where a request stands after what happened to it: counts, last days, what is in force, whose guard stands where."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from erase_plugins.errors import PushRefused, RequestError
from erase_plugins.requests import decisions
from erase_plugins.requests import store as store_file
from erase_plugins.requests.certificate import certificate
from erase_plugins.requests.decisions import in_force
from erase_plugins.requests.discreet import SUBJECT, Discretion
from erase_plugins.requests.guarding import guard_key, guards, place_of, write_guard
from erase_plugins.requests.intake import receive
from erase_plugins.requests.sharing import erase_before_push
from erase_plugins.requests.store import Desk
from tests.requests.conftest import CANARY, OTHER, attempted, triaged


def asked(desk, name=CANARY, **more):
    """A request whose remedies are planned."""
    case, _ = receive(desk, "person", [name], **more)
    decisions.verify_identity(desk, case, "account")
    triaged(desk, case)
    return case


@pytest.fixture
def at(monkeypatch):
    """Sets the clock of the desk."""
    return lambda day: monkeypatch.setattr(store_file, "now", lambda: f"{day}T12:00:00Z")


def test_after_the_third_failed_attempt_a_person_decides(tmp_path):
    desk = Desk.create(tmp_path / "desk")
    case = asked(desk)
    states = []
    for attempt in (1, 2, 3):
        attempted(desk, case, attempt, False)
        states.append(desk.ledger().case(case).state)
    assert states == ["failed", "failed", "escalated"]
    with pytest.raises(RequestError, match="cannot follow on 'escalated'"):
        attempted(desk, case, 4, False)


def test_a_certificate_tells_of_one_attempt(tmp_path):
    desk = Desk.create(tmp_path / "desk")
    case = asked(desk)
    attempted(desk, case, 1, False)
    attempted(desk, case, 2, True, "esd")
    ledger = desk.ledger()
    said = certificate(ledger, ledger.case(case))["says"]
    assert not any("measured before" in text or "did not pass" in text for text in said)


@pytest.mark.parametrize(("day", "fits"), [("2026-02-28", True), ("2026-03-01", False)])
def test_the_last_day_counts(tmp_path, at, day, fits):
    """Received on 31 January: an extension may be announced, and an answer is in time, up to 28 February."""
    at("2026-01-31")
    desk = Desk.create(tmp_path / "desk")
    case, late = (asked(desk, name, received="2026-01-31") for name in (CANARY, OTHER))
    attempted(desk, case, 1, True)
    at(day)
    ledger = decisions.deploy(desk, case)
    assert certificate(ledger, ledger.case(case))["in_time"] is fits
    if fits:
        assert decisions.decide(desk, late, "extend", "complexity").case(late).due == "2026-04-30"
    else:
        with pytest.raises(RequestError, match="an extension is announced before it"):
            decisions.decide(desk, late, "extend", "complexity")


def test_a_clock_that_was_put_back_stops_nobody(tmp_path, at):
    at("2026-02-02")
    desk = Desk.create(tmp_path / "desk")
    first, _ = receive(desk, "person", [CANARY])
    at("2026-02-01")
    _, ledger = receive(desk, "person", [OTHER])
    assert [line["time"][:10] for line in ledger.entries] == ["2026-02-02"] * 3
    assert first in desk.ledger().cases


def test_what_is_in_force_comes_in_the_order_in_which_it_was_put_to_use(tmp_path):
    desk = Desk.create(tmp_path / "desk")
    first, second, third = (asked(desk, name) for name in (CANARY, OTHER, "Harbin Oakley"))
    for case in (third, first, second):
        attempted(desk, case, 1, True)
        decisions.deploy(desk, case)
    assert [case.id for case in in_force(desk.ledger())] == [third, first, second]
    decisions.revoke(desk, first, "damage", "account")
    assert [case.id for case in in_force(desk.ledger())] == [third, second]


def test_the_first_remedy_is_one_that_changes_something(tmp_path):
    desk = Desk.create(tmp_path / "desk")
    case, _ = receive(desk, "person", [CANARY])
    assert desk.ledger().case(case).remedy == ""
    decisions.verify_identity(desk, case, "account")
    items = [
        {"id": name, "level": level, "why": "fits"} for name, level in (("keyword-guard", "prompt"), ("npo", "weights"))
    ]
    body = {"event": "triaged", "case": case, "model": "m", "family": "causal-lm", "offers": ["language"]}
    assert desk.append(lambda _: [{**body, "remedies": items}]).case(case).remedy == "npo"
    assert desk.append(lambda _: [{**body, "remedies": items[:1]}]).case(case).remedy == ""


def test_a_guard_stands_until_the_request_is_over(tmp_path):
    desk = Desk.create(tmp_path / "desk")
    used, given_up = asked(desk), asked(desk, OTHER)
    for case, name in ((used, CANARY), (given_up, OTHER)):
        assert write_guard(desk, desk.ledger().case(case), [name])
    attempted(desk, used, 1, True)
    decisions.deploy(desk, used)
    for attempt in (1, 2, 3):
        attempted(desk, given_up, attempt, False)
    assert [guard.concept for guard in guards(desk)] == [f"request {used}", f"request {given_up}"]
    for case in (used, given_up):
        decisions.decide(desk, case, "close")
    assert [guard.concept for guard in guards(desk)] == [f"request {used}"], "what is in use stays guarded"


def test_who_has_the_key_of_the_guards_cannot_read_the_ledger(tmp_path):
    """The guards go to where the model is served."""
    from erase_plugins.artifacts.keyword_guard import KeywordGuard
    from erase_plugins.artifacts.marks import mark

    desk = Desk.create(tmp_path / "desk")
    case = asked(desk)
    write_guard(desk, desk.ledger().case(case), [CANARY])
    hit = [KeywordGuard.read(place_of(desk, desk.ledger().case(case)), key).check(CANARY).hit
           for key in (guard_key(desk), desk.key)]  # fmt: skip
    assert hit == [True, False]
    assert desk.ledger().case(case).last["received"]["subjects"] == [desk.mark(CANARY)]
    assert mark(guard_key(desk), CANARY).hex() != desk.mark(CANARY)


@pytest.mark.parametrize("said", [{"shareable": False}, {"shareable": None}, {"shareable": "true"}, {"shareable": 1}])
def test_only_what_says_plainly_that_it_may_be_shared_is_sent(said):
    def bundle(marks):
        manifest = SimpleNamespace(to_dict=lambda: {"concepts": [{"extra": {"request": marks}}]})
        return SimpleNamespace(artifact=SimpleNamespace(manifest=manifest), files=())

    erase_before_push(bundle({"shareable": True}), "me/here")
    with pytest.raises(PushRefused, match="not public"):
        erase_before_push(bundle(said), "me/here")


def test_words_of_four_letters_are_names_too_and_no_error_brings_another_along():
    discreet = Discretion(["Anna Lee"])
    assert discreet.scrub("Anna, Ms Lee, Annabel") == f"{SUBJECT}, Ms Lee, Annabel"
    with pytest.raises(ValueError, match="of nobody") as caught, discreet.quiet():
        try:
            raise KeyError("Anna Lee")
        except KeyError:
            raise ValueError("of nobody")
    assert caught.value.__context__ is None
