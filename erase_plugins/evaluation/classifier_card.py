"""What the card of an edited classifier says: accuracies before and after, the gap to retraining, what still leaks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from erase_plugins.evaluation.wording import percent

if TYPE_CHECKING:
    from erase_plugins.types import EvalReport

TASK, SUITE = "image-classification", "classifier"
#: (metric, what it is, whether it counts the wrong labels)
_ACCURACIES = (
    ("target_rate", "forgotten classes, held-out pictures", False),
    ("kept_rate", "other classes, held-out pictures", False),
    ("ua", "what was forgotten, training pictures", True),
    ("ra", "what was retained, training pictures", False),
    ("ta", "test pictures without forgotten classes", False),
)
_LEAKS = (
    ("mia", "forgotten pictures that a confidence attack calls unseen"),
    ("auc", "loss attack, AUC"), ("tpr", "loss attack, true positives at 1 % false ones"),
    ("lira_auc", "LiRA, AUC"), ("lira_tpr", "LiRA, true positives at 1 % false ones"),
    ("rmia_auc", "RMIA, AUC"), ("rmia_tpr", "RMIA, true positives at 1 % false ones"),
    ("probe", "forgotten classes read by a new linear head"), ("prototype", "the same by the nearest class mean"),
    ("weights", "accuracy on what was forgotten, worst change of the weights that leaves half of the edit"),
    ("relearned", "accuracy on what was forgotten, taught again from a few pictures"),
)  # fmt: skip
#: number of a run -> what it is
_OF_RUN = (
    ("forget", "what was forgotten"), ("retain", "other classes"), ("earlier", "forgotten in earlier tasks"),
    ("missing", "classes without pictures to retain"),
)  # fmt: skip


def section(artifact: Any, report: EvalReport | None) -> str:
    """The section in Markdown; empty for artifacts of other models."""
    manifest = artifact.manifest
    if manifest.base.get("task") != TASK:
        return ""
    if report is not None and report.suite == SUITE:
        return "## Classes: before and after\n\n" + "\n".join(_measured(report))
    numbers = manifest.extra.get("numbers") or {}
    lines = _of_run(numbers)
    if not lines:
        return ""
    return "## Classes: before and after\n\n" + "\n".join([
        "Accuracy, as the run itself measured it:", "", "| pictures | before | after |", "|---|---|---|", *lines,
        "", "The gap to retraining and membership attacks were not measured.",
    ])  # fmt: skip


def _of_run(numbers: Mapping[str, Any]) -> list[str]:
    lines = []
    for name, told in (*_OF_RUN, ("", "all held-out pictures")):
        keys = [f"{name}_accuracy_{when}".removeprefix("_") for when in ("before", "after")]
        if all(isinstance(numbers.get(key), int | float) for key in keys):
            lines.append(f"| {told} | {_share(numbers[keys[0]])} | {_share(numbers[keys[1]])} |")
    return lines


def _measured(report: EvalReport) -> list[str]:
    rows = {(row.metric, row.subject): row for row in report.rows}
    lines = ["| accuracy | before | after | retrained |", "|---|---|---|---|"]
    for metric, told, turned in _ACCURACIES:
        found = [rows.get((metric, subject)) for subject in ("base", "edited", "retrained")]
        if any(found):
            cells = ["-" if row is None else _share(1 - row.value if turned else row.value) for row in found]
            lines.append(f"| {told} | {' | '.join(cells)} |")
    gap = [rows.get(("gap", subject)) for subject in ("base", "edited")]
    if gap[0] is not None and gap[1] is not None:
        models = f"{gap[1].n} retrained model{'s' * (gap[1].n != 1)}"
        told = f"{100 * gap[0].value:.1f} points before, {100 * gap[1].value:.1f} after"
        lines += ["", f"**Gap to retraining** (mean distance of UA, RA, TA and MIA from {models}): {told}."]
    else:
        lines += ["", "The gap to retraining was not measured; nothing else says what is good."]
    leaks = [(told, metric) for metric, told in _LEAKS if (metric, "edited") in rows]
    if leaks:
        lines += ["", "| what may still leak | before | after | retrained |", "|---|---|---|---|"]
        for told, metric in leaks:
            found = [rows.get((metric, subject)) for subject in ("base", "edited", "retrained")]
            lines.append(
                f"| {told} | " + " | ".join("-" if row is None else _value(metric, row) for row in found) + " |"
            )
    return lines


def _value(metric: str, row: Any) -> str:
    plain = f"{row.value:.2f}" if metric.endswith("auc") else _share(row.value)
    if row.low == row.high:
        return plain
    ends = (f"{end:.2f}" if metric.endswith("auc") else _share(end) for end in (row.low, row.high))
    return f"{plain} [{'..'.join(ends)}]"


def _share(value: float) -> str:
    return f"{percent(value)} %"
