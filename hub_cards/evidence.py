"""The numbers of a report on a card: the same numbers, with their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from huggingface_hub.repocard_data import EvalResult, eval_results_to_model_index

from erase_plugins.evaluation.wording import CLASSIFIER, CONTROLS, WORDS
from erase_plugins.types import AttackReport, EvalReport
from hub_cards.escape import flat, listed

#: metric -> what the first sentence calls it
_TOLD = {"target_rate": None, "synonym_rate": "synonyms", "kept_rate": "other concepts"}
#: what the name of a metric or subject holds if it was measured under attack
ATTACK = "attack"


def numbers(report: EvalReport | None, attacks: Sequence[AttackReport], erased: Sequence[str]) -> dict[str, Any]:
    """What a page says of an evaluation and of attacks."""
    rows = {(row.metric, row.subject): row for row in (report.rows if report else ())}
    words = _words(report)
    metrics = list(dict.fromkeys([*words, *(metric for metric, _ in rows)]))
    controls = list(dict.fromkeys(subject for _, subject in rows if subject not in ("base", "edited")))
    named = {metric: name or listed(erased, 2) for metric, name in _TOLD.items() if (metric, "edited") in rows}
    above = [item for item in attacks if item.success.low > item.control.high]  # the intervals do not touch
    return {
        "report": report, "measured": bool(rows), "rows": rows, "words": words, "metrics": metrics,
        "judged_pictures": words is WORDS, "controls": controls, "known_controls": CONTROLS,
        "controlled": [name for name in metrics if any((name, control) in rows for control in controls)],
        "attacked": any(ATTACK in f"{metric} {subject}" for metric, subject in rows), "attacks": attacks,
        "told": [(name, rows.get((metric, "base")), rows[metric, "edited"]) for metric, name in named.items()],
        "back": sorted(above, key=lambda item: -item.success.value),
    }  # fmt: skip


def _words(report: EvalReport | None) -> dict[str, str]:
    return CLASSIFIER if report is not None and report.suite == "classifier" else WORDS


def model_index(name: str, report: EvalReport) -> list[dict[str, Any]]:
    """The report's numbers after erasing, in the form that the Hub shows."""

    words, suite = _words(report), flat(report.suite)
    results = [
        EvalResult(
            "text-to-image" if words is WORDS else "image-classification", f"erase-plugins-{suite}",
            f"erase-plugins suite {suite}", flat(row.metric), row.value,
            metric_name=words.get(row.metric, flat(row.metric)),
        ) for row in report.rows if row.subject == "edited"
    ]  # fmt: skip
    return eval_results_to_model_index(name, results) if results else []
