"""The numbers of a report on a card: the same numbers, with their intervals."""

from __future__ import annotations

from typing import Any

from erase_plugins.types import EvalReport, EvalRow
from hub_cards.bundle import FIGURE
from hub_cards.escape import flat, prose

#: known metrics in words; others are shown by their name
WORDS = {
    "target_rate": "erased concept still drawn",
    "synonym_rate": "synonyms still drawn",
    "neighbour_rate": "neighbours still drawn",
    "kept_rate": "other concepts still drawn",
    "style_rate": "style right",
    "background_rate": "background right",
}
#: the same of classifiers, which draw nothing
CLASSIFIER = {"target_rate": "forgotten classes still recognised", "kept_rate": "other classes still recognised"}
#: known controls in words, and what they should show
CONTROLS = {
    "strength0": ("switched off", "should equal the column before"),
    "destroyed": ("destroyed model", "should score badly on what is kept"),
}
MISSING = "not measured"
#: what the name of a metric or subject holds if it was measured under attack
ATTACK = "attack"


def number(value: float) -> str:
    """A number exactly as the report has it."""
    return f"{value:.10g}"


def percent(share: float) -> str:
    """A share as people read it, in per cent with at most one decimal; the report has all digits."""
    return f"{100 * share:.1f}".removesuffix(".0")


def is_share(metric: str) -> bool:
    """Whether a metric is a share of pictures."""
    return metric in WORDS or metric.endswith("_rate")


def evidence(report: EvalReport | None, tried: bool = False) -> str:
    """Table of results before and after, controls, and how they were measured; "not measured" without a report.

    Args:
        report: of an evaluation.
        tried: the card says elsewhere what attacks achieved.
    """
    if report is None or not report.rows:
        return f"{MISSING.capitalize()}. Look at pictures of your own before you rely on it."
    table = {(row.metric, row.subject): row for row in report.rows}
    draws = report.suite != "classifier"
    metrics = list(dict.fromkeys([*(WORDS if draws else CLASSIFIER), *(row.metric for row in report.rows)]))
    lines = ["| measured (95 % interval) | before | after | pictures |", "|---|---|---|---|"]
    for metric in metrics:
        before, after = table.get((metric, "base")), table.get((metric, "edited"))
        count = next((str(row.n) for row in (after, before) if row is not None), "-")
        lines.append(f"| {_name(metric, draws)} | {_cell(before)} | {_cell(after)} | {count} |")
    if draws and not (tried or attacked(report)):
        lines.append("| drawn again under attack (prompts made for that) | not attacked | not attacked | - |")
    lines += _controls(table, metrics, draws)
    seeds = ", ".join(str(seed) for seed in report.seeds) or "not recorded"
    lines += [
        "",
        f"Suite {prose(report.suite)} on {prose(report.model)}, judge {prose(report.judge or 'none')}, strength "
        f"{number(report.strength)}, seed {seeds}. Raw values: `report.json`.",
    ]
    return "\n".join([*lines, *(f"\nNote: {prose(text)}." for text in report.warnings)])


def alt_text(report: EvalReport | None, name: str) -> str:
    """What a picture of a report shows, for those who cannot see it."""
    attached = {} if report is None else {FIGURE.format(file): entry for file, entry in report.attached.items()}
    return prose(str(attached.get(name, {}).get("title", ""))) or "Pictures before and after"


def attacked(report: EvalReport | None) -> bool:
    """Whether the report holds results under attack."""
    return report is not None and any(ATTACK in f"{row.metric} {row.subject}" for row in report.rows)


def _name(metric: str, draws: bool = True) -> str:
    return (WORDS if draws else CLASSIFIER).get(metric) or prose(metric)


def _cell(row: EvalRow | None) -> str:
    if row is None:
        return MISSING
    if is_share(row.metric):
        return f"{percent(row.value)} % ({percent(row.low)} to {percent(row.high)})"
    return f"{number(row.value)} ({number(row.low)} to {number(row.high)})"


def _controls(table: dict[tuple[str, str], EvalRow], metrics: list[str], draws: bool) -> list[str]:
    """A second table: what was measured to see whether the first one can be believed."""
    subjects = list(dict.fromkeys(subject for _, subject in table if subject not in ("base", "edited")))
    if not subjects:
        return []
    said = "; ".join(f"{_subject(name)}: {CONTROLS[name][1]}" for name in subjects if name in CONTROLS)
    lines = ["", f"Controls{f' ({said})' if said else ''}:", ""]
    lines += [
        "| control | " + " | ".join(_subject(name) for name in subjects) + " |",
        "|---" * (len(subjects) + 1) + "|",
    ]
    for metric in metrics:
        rows = [table.get((metric, name)) for name in subjects]
        if any(rows):
            cells = (MISSING if row is None else f"{_cell(row)}, n = {row.n}" for row in rows)
            lines.append(f"| {_name(metric, draws)} | " + " | ".join(cells) + " |")
    return lines


def _subject(name: str) -> str:
    return CONTROLS[name][0] if name in CONTROLS else prose(name)


def model_index(name: str, report: EvalReport) -> list[dict[str, Any]]:
    """The report's numbers after erasing, in the form that the Hub shows."""
    draws = report.suite != "classifier"
    words = WORDS if draws else CLASSIFIER
    metrics = [
        {"type": flat(row.metric), "name": words.get(row.metric, flat(row.metric)), "value": row.value}
        for row in report.rows
        if row.subject == "edited"
    ]
    if not metrics:
        return []
    task = "text-to-image" if draws else "image-classification"
    dataset = {"name": f"erase-plugins suite {flat(report.suite)}", "type": f"erase-plugins-{flat(report.suite)}"}
    return [{"name": name, "results": [{"task": {"type": task}, "dataset": dataset, "metrics": metrics}]}]
