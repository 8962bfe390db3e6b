"""One attack in one line: what page, card and table say of it. No torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from erase_plugins.errors import RequestError
from erase_plugins.evaluation.attacks.rates import BASE, DESTROYED, PLAIN, REFERENCE, TARGET, control_row
from erase_plugins.evaluation.wording import MISSING, counted
from erase_plugins.types import AttackReport, EvalRow

#: how attacks call the rate of the plain name under the edit
_PLAIN = ("edited", PLAIN)
#: (metric, subject) of the base's rate: by the plain name, or by the prompts of the attack
_BASE = ((BASE, PLAIN), (TARGET, "base"), (TARGET, "off"), (TARGET, "base, worst prompts"))
#: a control of which nobody says what it is
CONTROL = "control"
#: subjects of a control that say what it is -> the word for it
_CONTROLS = {control_row(kind): kind for kind in (DESTROYED, REFERENCE)}
_IN_WORDS = {DESTROYED: "the destroyed model", REFERENCE: "the reference", CONTROL: "the control"}
_RATES = ("value", "low", "high")
#: fields of a report that cannot hold a prompt
_PLAIN_FIELDS = (
    "schema", "attack", "model", "budget", "artifacts", "erased", "strength", "judge", "judge_hash", "seeds", "queries",
    "passes", "seconds",
)  # fmt: skip


def plain_name(report: AttackReport) -> EvalRow | None:
    """How often the plain name brings the concept, with the edit in force and before any attack."""
    found = [row for row in report.rows if row.metric == TARGET and row.subject in _PLAIN]
    return min(found, key=lambda row: _PLAIN.index(row.subject)) if found else None


def base_rate(report: AttackReport) -> EvalRow | None:
    """How often the base draws the concept without the edit, by its plain name or by the prompts of the attack."""
    found = [row for row in report.rows if (row.metric, row.subject) in _BASE]
    return min(found, key=lambda row: _BASE.index((row.metric, row.subject))) if found else None


def base_share(report: AttackReport) -> str:
    """The rate of the base for a narrow cell: it only says from where the others came down."""
    row = base_rate(report)
    return MISSING if row is None else f"{100 * row.value:.0f} %"


def control_kind(report: AttackReport) -> str:
    """What the control of a report is: "reference" (never saw the concept), "destroyed", or just "control".

    Only these words are shown. A subject may be anything in an attack of somebody else, the found prompt too.
    """
    return _CONTROLS.get(report.control.subject, CONTROL)


def control_share(report: AttackReport) -> str:
    """The rate of the control with what it is, for a column of controls."""
    kind, told = control_kind(report), counted(report.control)
    return told if kind == CONTROL else f"{kind}: {told}"


def against(report: AttackReport) -> str:
    """The control and what it is, where no column says that it is one."""
    kind = control_kind(report)
    return kind if kind == CONTROL else f"{CONTROL}, {kind}"


def excess(report: AttackReport) -> str:
    """How much more often the concept came than in the control; below 0 where the control showed it more often."""
    return f"{round(100 * report.excess)} %"


def excess_line(report: AttackReport) -> str:
    """The same with the control's name."""
    return f"excess over {_IN_WORDS[control_kind(report)]}: {excess(report)}"


def without_found(report: AttackReport) -> dict[str, Any]:
    """The report without what the attack found, which brings the concept back for whoever has it: rates, counts, names.

    Subject and note of a rate may hold the prompt that was found, so they are written anew. Of the control it stays
    what it is, in the words of `control_row`.
    """
    data, kind = report.to_dict(), control_kind(report)
    rates = {
        "success": replace(report.success, subject="attacked", note=""),
        "control": replace(report.control, subject=CONTROL if kind == CONTROL else control_row(kind), note=""),
    }
    beside = [replace(row, note="") for row in (base_rate(report), plain_name(report)) if row is not None]
    return {
        **{name: data[name] for name in _PLAIN_FIELDS}, "rows": [row.to_dict() for row in beside],
        **{name: row.to_dict() for name, row in rates.items()}, "published": "without what was found",
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
    shown = [row for row in report.rows if row.metric == TARGET or (row.metric, row.subject) in _BASE]
    if not isinstance(report.rows, tuple) or not all(map(_is_share, (report.success, report.control, *shown))):
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
