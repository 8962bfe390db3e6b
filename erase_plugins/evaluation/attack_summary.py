"""One attack in one line: what page, card and table say of it. No torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from erase_plugins.errors import RequestError
from erase_plugins.types import AttackReport, EvalRow

#: how attacks call the rate of the plain name under the edit: (metrics, subjects)
_METRIC, _PLAIN = "target_rate", ("edited", "plain name")
_RATES = ("value", "low", "high")
#: fields of a report that cannot hold a prompt
_PLAIN_FIELDS = (
    "schema", "attack", "model", "budget", "artifacts", "erased", "strength", "judge", "judge_hash", "seeds", "queries",
    "passes", "seconds",
)  # fmt: skip


def plain_name(report: AttackReport) -> EvalRow | None:
    """How often the plain name brings the concept, with the edit in force and before any attack."""
    found = [row for row in report.rows if row.metric == _METRIC and row.subject in _PLAIN]
    return min(found, key=lambda row: _PLAIN.index(row.subject)) if found else None


def without_found(report: AttackReport) -> dict[str, Any]:
    """The report without what the attack found, which brings the concept back for whoever has it: rates, counts, names.

    The subject of a rate may be the prompt that was found, so it is written anew.
    """
    data, plain = report.to_dict(), plain_name(report)
    return {
        **{name: data[name] for name in _PLAIN_FIELDS}, "rows": [] if plain is None else [plain.to_dict()],
        "success": {**data["success"], "subject": "attacked"}, "control": {**data["control"], "subject": "control"},
        "published": "without what was found",
    }  # fmt: skip


def sound(report: AttackReport, name: str) -> AttackReport:
    """A report from anywhere, if its numbers are numbers.

    Args:
        report: as read.
        name: of its file, for the message.

    Raises:
        RequestError: an id that is no id, rates outside of 0..1, counts that are no counts.
    """
    problem = _problem(report)
    if problem:
        raise RequestError(f"'{name}' is no report of an attack: {problem}")
    return report


def _problem(report: AttackReport) -> str:
    texts = [report.attack, report.model, report.budget, report.judge, report.judge_hash]
    if not all(isinstance(text, str) for text in texts) or not report.attack:
        return "attack, model, budget or judge are no text"
    shares = (report.success, report.control, *(row for row in report.rows if getattr(row, "metric", "") == _METRIC))
    if not isinstance(report.rows, tuple) or not all(map(_is_share, shares)):
        return "a rate is no share with an interval and a count"
    if not all(_is_count(value) for value in (report.queries, report.passes)):
        return "queries or passes are no counts"
    names: Sequence[Any] = [report.artifacts, report.erased, report.warnings]
    if not all(isinstance(part, tuple) and all(isinstance(text, str) for text in part) for part in names):
        return "artifacts, erased or warnings are no lists of text"
    if not _is_number(report.strength) or not _is_number(report.seconds):
        return "strength or seconds are no numbers"
    return "" if isinstance(report.seeds, tuple) and all(map(_is_count, report.seeds)) else "seeds are no numbers"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63


def _is_share(row: Any) -> bool:
    return (
        isinstance(row, EvalRow)
        and isinstance(row.metric, str)
        and isinstance(row.subject, str)
        and all(_is_number(getattr(row, name)) and 0 <= getattr(row, name) <= 1 for name in _RATES)
        and row.low <= row.value <= row.high
        and _is_count(row.n)
    )
