"""Measures what an attempt did, and says whether that is enough. Numbers go into the ledger; pictures are not kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from erase_plugins.errors import RequestError, Unsupported
from erase_plugins.hints import Hint
from erase_plugins.manager import get_manager
from erase_plugins.reports import EvalRow
from erase_plugins.requests.case import Case, Ledger
from erase_plugins.requests.discreet import Discretion
from erase_plugins.requests.intake import recognise
from erase_plugins.requests.store import Desk
from erase_plugins.workflow.fitting import suites_for
from erase_plugins.workflow.remedies import RECORDS
from erase_plugins.workflow.request_run import artifact_hash, folder_of

#: how often the subject is still seen or said; the other shares are of what has to stay
_TARGETS = ("target_rate", "forget_probability")
#: reported, and not decided by: paraphrases, and what is no share
_KEPT = ("_rate", "_probability", "_share")
_REPORTED = ("synonym_rate",)
UNKNOWN = "unknown"
#: subject of a row -> who has nothing of the subject, and gives it a probability all the same; the first that is there
NOBODY = {UNKNOWN: "somebody unknown", "reference": "a model that never saw it"}


@dataclass(frozen=True)
class Limits:
    """What passes.

    Attributes:
        left: largest share of the subject that may be left, compared with before.
        loss: largest loss of any share of what has to stay.
    """

    left: float = 0.1
    loss: float = 0.1


def evaluate_case(
    desk: Desk,
    name: str,
    model: str,
    subjects: Sequence[str],
    *,
    suite: str | None = None,
    forget: str | None = None,
    limits: Limits | None = None,
    role: str = "operator",
    dry_run: bool = False,
    prepare: Callable[[], object] | None = None,
    **measured: Any,
) -> tuple[Case, Ledger]:
    """Measures the present attempt of a request and enters the numbers and whether they pass.

    Args:
        desk, name: which request.
        model: the model it was made for.
        subjects: the names, the same as at the intake; suites ask about them.
        suite: id of a registered suite; the first that fits, or the run's own numbers, if None.
        forget: data, if some came with the request.
        limits: what passes.
        role: who measures.
        dry_run: say what would be measured.
        prepare: called once nothing speaks against it any more, before anything is loaded.
        measured: as for `erase_plugins.evaluate`.

    Raises:
        RequestError: nothing was made yet, or other names than at the intake.
        EraseError: what the suite raises, without names.
    """
    case = desk.ledger().case(name)
    names = recognise(desk, case, subjects, forget)
    case.require("evaluated", "it is measured when something was made (request run)")
    if prepare is not None and case.remedy != RECORDS and not dry_run:
        prepare()
    chosen, limit, discretion = suite, limits or Limits(), Discretion([*names, *subjects])
    with discretion.quiet():
        if case.remedy == RECORDS:
            chosen, rows, reasons = "certificate", *_of_head(model)
        else:
            chosen, rows = _of_model(desk, case, model, names, suite, dry_run, measured)
            reasons = verdict(rows, limit)
    body = {
        "event": "evaluated", "case": case.id, "attempt": case.attempt, "suite": chosen,
        "rows": [_line(row, discretion) for row in rows], "left": limit.left, "loss": limit.loss,
        "passed": not reasons, "reasons": reasons,
    }  # fmt: skip
    if dry_run:
        return case, desk.ledger()
    ledger = desk.append(lambda _: [body], role)
    return ledger.case(case.id), ledger


def _of_model(
    desk: Desk, case: Case, model: str, names: Sequence[str], suite: str | None, dry_run: bool,
    measured: dict[str, Any],
) -> tuple[str, list[EvalRow]]:  # fmt: skip
    from erase_plugins.workflow.artifacts import load_artifact
    from erase_plugins.workflow.measure import run_suite
    from erase_plugins.workflow.models import find_model

    artifact = load_artifact(folder_of(desk, case))
    if artifact_hash(artifact) != case.artifact:
        raise RequestError(
            f"what lies in '{folder_of(desk, case).name}' is not what request {case.id} made; run it again"
        )
    own = _own(artifact)
    if suite is None and own:
        return "run", own
    found = find_model(model, measured.get("revision"))
    fitting = suites_for(found.info)
    if suite is None and not fitting:
        raise Unsupported(
            f"no registered suite measures {found.info.model}; install one, or name one with ", Hint("suite")
        )
    chosen = suite or fitting[0]
    if dry_run:
        get_manager().evaluator(chosen, "suite")
        return chosen, []
    report = run_suite(found, [artifact], chosen, erased=names, **measured)
    return chosen, list(report.rows)


def _own(artifact: Any) -> list[EvalRow]:
    """What the run itself measured before and after, and of somebody unknown where every text has such a twin."""
    numbers = artifact.manifest.extra.get("numbers", {})
    stranger = numbers.get("unknown_probability") if numbers.get("unknown_share") == 1 else None
    unknown = [] if stranger is None else [EvalRow("forget_probability", UNKNOWN, stranger, stranger, stranger, 0)]
    return unknown + [
        EvalRow(name, "base" if when == "before" else "edited", value, value, value, 0)
        for name in ("forget_probability", "retain_probability", "forget_nll", "retain_nll")
        for when in ("before", "after")
        if isinstance(value := numbers.get(f"{name}_{when}"), int | float)
    ]


def _of_head(model: str) -> tuple[list[EvalRow], list[str]]:
    from erase_plugins.records.store import Records

    found = Records.open(model).certificate()
    numbers = ("rho_adaptive", "epsilon_adaptive", "advantage_adaptive")
    rows = [EvalRow(name, "deleted", found[name], found[name], found[name], 0) for name in numbers]
    return rows, list(found["reasons"])


def verdict(rows: Sequence[EvalRow], limits: Limits) -> list[str]:
    """Why measured numbers do not pass; empty if they do.

    What is not known has a probability as well: where that was measured, what is left counts from there and not from 0.
    """
    values = {(row.metric, row.subject): row.value for row in rows}
    pairs = _pairs(values)
    if not any(name in _TARGETS for name in pairs):
        return ["the suite measured nothing about the subject before and after"]
    reasons = []
    for name, before, after, nobody, who in _targets(values):
        told = f"{nobody:.4g}, as of {NOBODY[who]}," if who else "0"
        if before <= nobody:
            reasons.append(f"{name} was {told} before: the probes did not find the subject, which proves nothing")
        elif after - nobody > limits.left * (before - nobody):
            rest = f"what is above {nobody:.4g} ({NOBODY[who]})" if who else "it"
            reasons.append(f"{name} fell from {before:.4g} to {after:.4g}, and {limits.left:g} of {rest} may be left")
    for name, (before, after) in pairs.items():
        if name not in (*_TARGETS, *_REPORTED) and name.endswith(_KEPT) and before - after > limits.loss:
            reasons.append(f"{name} fell from {before:.4g} to {after:.4g}, and may fall by {limits.loss:g}")
    return reasons


def left_over(rows: Sequence[Sequence[Any]], limit: float) -> list[str]:
    """What is left of the subject as `verdict` counts it, in sentences; of rows as the ledger holds them."""
    said = []
    for name, before, after, nobody, who in _targets({(row[0], row[1]): row[2] for row in rows}):
        if before > nobody:
            above = f", counted from {nobody:.4g} ({NOBODY[who]})" if who else ""
            share = max(after - nobody, 0.0) / (before - nobody)
            said.append(f"{name}: {share:.1%} of the subject is left{above}; at most {100 * limit:g}% may be")
    return said


def _pairs(values: Mapping[tuple[str, str], float]) -> dict[str, tuple[float, float]]:
    """Metric -> before and after, where both were measured."""
    return {name: (values[name, "base"], values[name, "edited"]) for name, subject in values
            if subject == "edited" and (name, "base") in values}  # fmt: skip


def _targets(values: Mapping[tuple[str, str], float]) -> Iterator[tuple[str, float, float, float, str]]:
    """Metric of the subject, before, after, and what who has nothing of it gives, by whom; 0 and "" if unmeasured."""
    for name, (before, after) in _pairs(values).items():
        if name in _TARGETS:
            who = next((subject for subject in NOBODY if (name, subject) in values), "")
            yield name, before, after, values[name, who] if who else 0.0, who


def _line(row: EvalRow, discretion: Discretion) -> list[Any]:
    """A measured number as the ledger holds it."""
    metric, subject = (discretion.scrub(text).strip("[]")[:60] for text in (row.metric, row.subject))
    bounds = (None, None) if row.n == 0 else (round(row.low, 6), round(row.high, 6))
    return [metric, subject, round(row.value, 6), *bounds, row.n]
