"""The numbers of a report on a card: the same numbers, with their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from huggingface_hub.repocard_data import EvalResult, eval_results_to_model_index

from erase_plugins.evaluation.wording import CONTROLS, DRAWS, WORDS, what_is_done, words_of
from erase_plugins.types import AttackReport, EvalReport
from hub_cards.escape import flat, listed

#: metric -> what the first sentence calls it
_TOLD = {"target_rate": None, "synonym_rate": "synonyms", "kept_rate": "other concepts", "forget_key": None,
         "retain_key": "others"}  # fmt: skip
#: one of these is in the name of a metric or subject that was measured under attack
_ATTACKED = ("attack", "mia", "probe", "relearned", "drawn_key", "int4_", "int8_")


def numbers(
    report: EvalReport | None, attacks: Sequence[AttackReport], erased: Sequence[str], task: str = DRAWS
) -> dict[str, Any]:
    """What a page says of an evaluation and of attacks on a model that does ``task``."""
    rows = {(row.metric, row.subject): row for row in (report.rows if report else ())}
    words = words_of(report.suite if report else "", task)
    metrics = list(dict.fromkeys([*words, *(metric for metric, _ in rows)]))
    controls = list(dict.fromkeys(subject for _, subject in rows if subject not in ("base", "edited")))
    named = {metric: name or listed(erased, 2) for metric, name in _TOLD.items() if (metric, "edited") in rows}
    above = [item for item in attacks if item.success.low > item.control.high]  # the intervals do not touch
    return what_is_done(task) | {
        "report": report, "measured": bool(rows), "rows": rows, "words": words, "metrics": metrics,
        "judged_pictures": words is WORDS, "controls": controls, "known_controls": CONTROLS,
        "controlled": [name for name in metrics if any((name, control) in rows for control in controls)],
        "attacked": any(part in f"{metric} {subject}" for metric, subject in rows for part in _ATTACKED),
        "attacks": attacks,
        "told": [(name, rows.get((metric, "base")), rows[metric, "edited"]) for metric, name in named.items()],
        "back": sorted(above, key=lambda item: -item.success.value),
    }  # fmt: skip


def model_index(name: str, report: EvalReport, task: str) -> list[dict[str, Any]] | None:
    """The report's numbers after erasing, in the form that the Hub shows; ``task`` is what the model does."""
    words, suite = words_of(report.suite, task), flat(report.suite)
    results = [
        EvalResult(
            flat(task), f"erase-plugins-{suite}", f"erase-plugins suite {suite}", flat(row.metric), row.value,
            metric_name=words.get(row.metric, flat(row.metric)),
        ) for row in report.rows if row.subject == "edited"
    ]  # fmt: skip
    return eval_results_to_model_index(name, results) if results else None
