"""When a request has to be answered. The rules are defaults, no legal advice; `--days` sets another one."""

from __future__ import annotations

import calendar
import datetime
from dataclasses import dataclass

from erase_plugins.errors import RequestError
from erase_plugins.hints import Hint

#: days before the deadline from which on `status` warns
WARN = 7


@dataclass(frozen=True)
class Rule:
    """Time to answer, and by how much it may be extended once, with notice while it runs."""

    months: int = 0
    days: int = 0
    more_months: int = 0
    more_days: int = 0


#: GDPR article 12(3) and its British twin; CCPA (California)
RULES = {
    "eu": Rule(months=1, more_months=2),
    "uk": Rule(months=1, more_months=2),
    "california": Rule(days=45, more_days=45),
}


def rule_of(name: str, days: int) -> Rule:
    """The rule of a jurisdiction; a number of days above 0 takes its place, and may be extended by as many.

    Raises:
        RequestError: no such rule.
    """
    if days:
        return Rule(days=days, more_days=days)
    if name not in RULES:
        raise RequestError(
            f"no deadline is known for '{name}'; choose one of {', '.join(RULES)}, or give ", Hint("days")
        )
    return RULES[name]


def due(received: datetime.date, rule: Rule, extended: bool = False) -> datetime.date:
    """The last day; a month ends on its last day where it has no such day (31 January: 28 or 29 February)."""
    months = rule.months + (rule.more_months if extended else 0)
    days = rule.days + (rule.more_days if extended else 0)
    year, month = divmod(received.year * 12 + received.month - 1 + months, 12)
    last = calendar.monthrange(year, month + 1)[1]
    return datetime.date(year, month + 1, min(received.day, last)) + datetime.timedelta(days)


def date(text: str) -> datetime.date:
    """The day of "2026-01-31".

    Raises:
        RequestError: it is none.
    """
    try:
        return datetime.datetime.strptime(text, "%Y-%m-%d").date()
    except (ValueError, TypeError) as error:
        raise RequestError(f"{text!r} is no date; write one as 2026-01-31") from error


def remaining(last: datetime.date, today: datetime.date, answered: bool = False) -> tuple[int, str]:
    """Days left, below 0 when it is over, and what to warn of: "", "due soon" or "overdue"; nothing once answered."""
    left = (last - today).days
    if answered:
        return left, ""
    return left, "overdue" if left < 0 else "due soon" if left <= WARN else ""
