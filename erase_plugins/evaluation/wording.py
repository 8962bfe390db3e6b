"""What measured numbers are called and how they are written: the same on cards, in audits and on the page. No torch."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from erase_plugins.markdown import Inert, listed, prose
from erase_plugins.types import AttackReport, EvalReport, EvalRow

#: known metrics in words; others are shown by their name
WORDS = {
    "target_rate": "erased concept still drawn", "synonym_rate": "synonyms still drawn",
    "neighbour_rate": "neighbours still drawn", "kept_rate": "other concepts still drawn",
    "style_rate": "style right", "background_rate": "background right",
}  # fmt: skip
#: the same of classifiers, which draw nothing
CLASSIFIER = {"target_rate": "forgotten classes still recognised", "kept_rate": "other classes still recognised"}
#: the same of language models, as the suite of that name asks them
LANGUAGE = {
    "forget_key": "questions on what was forgotten, answered", "retain_key": "questions on others, answered",
    "general_key": "general questions, answered", "drawn_key": "what was forgotten, in one of many drawn answers",
    "probe_key": "what was forgotten, told from wrong answers by a linear probe of hidden states",
    "lens_key": "what was forgotten, among the likeliest words of a layer within",
    "forget_probability": "probability of the forgotten answers",
    "relearned_probability": "the same after a few of them were taught again", "utility": "utility for everything else",
}  # fmt: skip
#: suite -> words for its metrics
_SUITES = {"classifier": CLASSIFIER, "language": LANGUAGE}
#: what a model does, by the Hub's name -> what it does with a concept, the participle, and in what that is counted
DRAWS = "text-to-image"
_DOES = {
    DRAWS: ("draws", "drawn", "pictures", "quick"),
    "image-classification": ("recognises", "recognised", "pictures", "classifier"),
    "text-generation": ("answers about", "answered", "questions", "language"),
}
#: states of a model in words, for headings and legends; others are shown by their name
STATES = {
    "base": "base", "edited": "erased", "strength0": "switched off (control)", "destroyed": "destroyed (control)",
    "reference": "never saw it (control)",
}  # fmt: skip
#: known controls in words, and what they should show
CONTROLS = {
    "strength0": ("switched off", "should equal the column before"),
    "destroyed": ("destroyed model", "should score badly on what is kept"),
    "reference": ("a model that never saw it", "what exact forgetting looks like"),
}
MISSING = "not measured"
#: behind the name of a set of prompts: how many of them a guard refused
REFUSED = "_refused_share"
#: metric -> what the first sentence of a page calls it
_TOLD = {"target_rate": None, "synonym_rate": "synonyms", "kept_rate": "other concepts", "forget_key": None,
         "retain_key": "others"}  # fmt: skip
#: one of these is in the name of a metric or subject that was measured under attack
_ATTACKED = ("attack", "mia", "probe", "relearned", "weights", "drawn_key", "lens_key", "int4_", "int8_")
#: a page of ours never calls anything by this word, whoever wrote the report
_PROMISE = re.compile(r"(?i)\bsafe(ly|ty|r|st)?\b")


def words_of(suite: str, task: str) -> dict[str, str]:
    """Words for the metrics of a suite; none for a suite that is not known here and draws no pictures."""
    return _SUITES.get(suite, WORDS if task == DRAWS else {})


def called(metric: str, words: Mapping[str, str]) -> str:
    """A metric in words, if they have it."""
    if metric.endswith(REFUSED):
        return f"{metric.removesuffix(REFUSED).replace('_', ' ')}, refused by a guard"
    return words.get(metric, metric)


def what_is_done(task: str) -> dict[str, str]:
    """What a model does with a concept: "does", "done" (was it still?), "counted" in what, and by which "suite"."""
    words = _DOES.get(task, ("knows", "found", "samples", ""))
    return dict(zip(("does", "done", "counted", "suite"), words, strict=True))


def number(value: float) -> str:
    """A number exactly as the report has it."""
    return f"{value:.10g}"


def percent(share: float) -> str:
    """A share as people read it, in per cent with at most one decimal; the report has all digits."""
    return f"{100 * share:.1f}".removesuffix(".0")


def cell(row: EvalRow | None) -> str:
    """A number with its interval; shares of pictures or answers, and probabilities, in per cent."""
    if row is None:
        return MISSING
    if row.metric in WORDS or row.metric.endswith(("_rate", "_key", "_probability", REFUSED)):
        return f"{percent(row.value)} % ({percent(row.low)} to {percent(row.high)})"
    return f"{number(row.value)} ({number(row.low)} to {number(row.high)})"


def counted(row: EvalRow | None) -> str:
    """A rate with its interval and the number of pictures."""
    if row is None:
        return MISSING
    return f"{100 * row.value:.0f} % ({100 * row.low:.0f} to {100 * row.high:.0f}, n = {row.n})"


def unpromising(text: object) -> Inert:
    """Text of a report on a page of ours, without words that promise."""
    return prose(_PROMISE.sub("***", str(text)))


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
        "report": report, "measured": bool(rows), "rows": rows, "controls": controls, "known_controls": CONTROLS,
        "words": {name: called(name, words) for name in metrics}, "metrics": metrics, "judged_pictures": words is WORDS,
        "controlled": [name for name in metrics if any((name, control) in rows for control in controls)],
        "attacked": any(part in f"{metric} {subject}" for metric, subject in rows for part in _ATTACKED),
        "attacks": attacks, "notes": {metric: row.note for (metric, _), row in rows.items() if row.note},
        "told": [(name, rows.get((metric, "base")), rows[metric, "edited"]) for metric, name in named.items()],
        "back": sorted(above, key=lambda item: -item.success.value),
    }  # fmt: skip
