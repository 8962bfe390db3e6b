"""Deadlines by the calendar, and what `status` warns of."""

from __future__ import annotations

import datetime

import pytest

from erase_plugins.errors import RequestError
from erase_plugins.requests.deadlines import date, due, remaining, rule_of


@pytest.mark.parametrize(
    ("received", "rule", "extended", "wanted"),
    [
        ("2026-01-31", "eu", False, "2026-02-28"),
        ("2028-01-31", "eu", False, "2028-02-29"),
        ("2026-03-31", "eu", False, "2026-04-30"),
        ("2026-12-15", "eu", False, "2027-01-15"),
        ("2026-01-31", "eu", True, "2026-04-30"),
        ("2026-11-30", "uk", True, "2027-02-28"),
        ("2026-01-01", "california", False, "2026-02-15"),
        ("2026-01-01", "california", True, "2026-04-01"),
    ],
)
def test_the_last_day(received, rule, extended, wanted):
    assert due(date(received), rule_of(rule, 0), extended).isoformat() == wanted


def test_days_of_ones_own():
    assert due(date("2026-02-27"), rule_of("eu", 10)).isoformat() == "2026-03-09"
    assert due(date("2026-02-27"), rule_of("eu", 10), True).isoformat() == "2026-03-19"


@pytest.mark.parametrize(("today", "said"), [("2026-02-01", ""), ("2026-02-21", "due soon"), ("2026-02-28", "due soon"), ("2026-03-01", "overdue")])  # fmt: skip
def test_warnings(today, said):
    last = datetime.date(2026, 2, 28)
    assert remaining(last, date(today))[1] == said
    assert remaining(last, date(today), answered=True)[1] == ""


def test_an_extension_is_announced_in_time_and_once(tmp_path):
    from erase_plugins.errors import RequestError
    from erase_plugins.requests.decisions import decide
    from erase_plugins.requests.intake import receive
    from erase_plugins.requests.store import Desk

    desk = Desk.create(tmp_path / "desk")
    late, _ = receive(desk, "person", ["A Name"], received="2020-01-31")
    with pytest.raises(RequestError, match="its deadline was 2020-02-29; an extension is announced before it"):
        decide(desk, late, "extend", "complexity")
    fresh, _ = receive(desk, "person", ["A Name"])
    ledger = decide(desk, fresh, "extend", "complexity")
    assert ledger.case(fresh).due > desk.ledger().case(fresh).last["received"]["due"]
    with pytest.raises(RequestError, match="extended already"):
        decide(desk, fresh, "extend", "complexity")
    with pytest.raises(RequestError, match="choose one of complexity, number-of-requests"):
        decide(desk, fresh, "extend", "no time")


def test_what_is_no_date_is_named():
    with pytest.raises(RequestError, match=r"^'31\.01\.2026' is no date; write one as 2026-01-31$"):
        date("31.01.2026")
