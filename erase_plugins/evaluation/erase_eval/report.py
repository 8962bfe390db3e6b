"""Numbers of EraseEval with their intervals, from what was seen of base, edited and destroyed model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from erase_plugins.errors import Unsupported
from erase_plugins.evaluation.bootstrap import RESAMPLES, mean_interval
from erase_plugins.evaluation.draw import sampler_facts
from erase_plugins.evaluation.erase_eval import metrics
from erase_plugins.evaluation.prompts import prompts_hash
from erase_plugins.types import Attachment, EvalReport, EvalRow

if TYPE_CHECKING:
    from erase_plugins.evaluation.erase_eval.look import Seen
    from erase_plugins.evaluation.erase_eval.metrics import Array
    from erase_plugins.evaluation.erase_eval.probe import Probe
    from erase_plugins.evaluation.erase_eval.prompts import Asked
    from erase_plugins.evaluation.run import Subject

M1, M2, M3, M4, SCORE = "m1_explicit", "m2_implicit", "m3_followed", "m4_alike", "erase_score"
#: fewer prompts that mean the concept say nothing
FEWEST = 3
#: less of the likeness than this is none
_GONE = 0.01
#: a smaller spread of features than this share of the base's is warned of
_SPREAD = 0.5


@dataclass(frozen=True)
class Measured:
    """A number with resamples of it; the same resample number is the same draw of prompts everywhere."""

    value: float
    samples: Array
    n: int

    def row(self, metric: str, subject: str) -> EvalRow:
        low, high = (float(np.quantile(self.samples, tail)) for tail in (0.025, 0.975))
        value = round(self.value, 6)
        return EvalRow(metric, subject, value, min(round(low, 6), value), max(round(high, 6), value), self.n)


def interval_row(metric: str, subject: str, interval: tuple[float, float, float], n: int) -> EvalRow:
    """A row from (mean, low, high)."""
    value, low, high = (round(number, 6) for number in interval)
    return EvalRow(metric, subject, value, low, high, n)


def make_report(
    suite: str, subject: Subject, asked: Asked, probes: Mapping[str, Probe], base: Seen, edited: Seen, control: Seen,
    options: Mapping[str, Any], reference: Seen | None = None,
) -> EvalReport:  # fmt: skip
    """The report of the suite.

    Args:
        suite: its id.
        subject: what was measured.
        asked: its prompts.
        probes: judge of each concept.
        base, edited, control: what was seen; of the control the first retained prompts only.
        options: of the suite.
        reference: what was seen of a model that never saw the concept: the score that exact forgetting gets.
    """
    seed, warnings = subject.seed, []
    looked = {"base": base, "edited": edited, **({"reference": reference} if reference is not None else {})}
    found: dict[str, dict[str, Measured]] = {"edited": {}, "base": {}, "destroyed": {}, "reference": {}}
    counted: dict[str, Any] = {}
    for metric, kind in ((M1, "explicit"), (M2, "implicit")):
        sides = {name: _cells(asked, probes, base, seen, kind) for name, seen in looked.items()}
        counted[kind] = {concept: len(values) for concept, values in sides["base"].items()}
        few = [concept for concept, values in sides["base"].items() if len(values) < (FEWEST if metric == M2 else 1)]
        if few:
            warnings.append(
                f"{metric} was not measured, and so no score: fewer than {FEWEST} prompts mean {', '.join(few)} "
                "without naming it and are drawn by the base; name a file of some in the option implicit"
            )
            continue
        for name, cells in sides.items():
            values = [value for part in cells.values() for value in part]
            found[name][metric] = Measured(float(np.mean(values)), _means(values, seed), len(values))
    few_n = len(control.hits["retained"])
    for name, seen in (*looked.items(), ("destroyed", control)):
        count = few_n if seen is control else None
        found[name][M3] = _followed(base, seen, count, seed)
        found[name][M4] = _alike(base, seen, count, seed)
    control_m4, same_prompts = found["destroyed"][M4].value, _alike(base, edited, few_n, seed).value
    if control_m4 > 0.5:
        warnings.append(
            "the features hardly see that a model is destroyed; do not trust what is said about being alike"
        )
    elif same_prompts <= control_m4 or found["edited"][M4].value < _GONE:
        found["edited"][M4] = replace(found["edited"][M4], value=0.0, samples=np.zeros(RESAMPLES))
        warnings.append("the pictures are as far from the base as those of a destroyed model; that counts as 0")
    for name in looked:
        parts = [found[name].get(metric) for metric in (M1, M2, M3, M4)]
        if all(part is not None for part in parts):
            ready = [part for part in parts if part is not None]
            rule = options["rule"]
            samples = metrics.combine(np.stack([np.clip(part.samples, 0, 1) for part in ready]), rule)
            value = float(metrics.combine([min(max(part.value, 0.0), 1.0) for part in ready], rule))
            found[name][SCORE] = Measured(value, samples, min(part.n for part in ready))
    spread = metrics.spread_ratio(metrics.unit(base.features["retained"]), metrics.unit(edited.features["retained"]))
    if spread < _SPREAD:
        warnings.append(f"pictures of other things vary less than before (spread {spread:.2f} of the base's)")
    rows = [item.row(metric, name) for name, table in found.items() for metric, item in table.items()]
    rates, hits = _rates(probes, looked, seed)
    sets = {**asked.measured, "reference": asked.reference}
    report = EvalReport(
        suite=suite, model=subject.model, rows=(*rows, *rates),
        artifacts=tuple(item.name for item in subject.artifacts), erased=tuple(subject.erased),
        strength=subject.strength, judge=subject.judge.id, judge_hash=subject.judge.fingerprint,
        prompts_hash=prompts_hash(sets), seeds=(seed,), warnings=tuple(warnings),
        details={
            "mode": "offline; compare it only with reports of the same judges, prompts_hash and sampler",
            "rule": options["rule"], "counted": counted, "spread": round(spread, 6), "hits": hits,
            "scaled": _scaled(asked, probes, base, edited),
            "judges": {
                name: {"hash": probe.fingerprint, "auroc": round(probe.auroc, 4), "balanced": round(probe.balanced, 4),
                       "threshold": round(probe.threshold, 4), "training": [len(part) for part in asked.train[name]]}
                for name, probe in probes.items()
            },
            "sampler": sampler_facts(subject),
            "prompts": {name: list(dict.fromkeys(item.text for item in items)) for name, items in sets.items()},
        },
    )  # fmt: skip
    return replace(report, attachments=_attach(report, base, edited, control))


# ---- M1, M2 --------------------------------------------------------------------------------------------------------


def _by_prompt(asked: Asked, name: str) -> list[list[int]]:
    """Places of the pictures of every prompt of a set."""
    places: dict[str, list[int]] = {}
    for place, item in enumerate(asked.measured[name]):
        places.setdefault(item.text, []).append(place)
    return list(places.values())


def _cells(asked: Asked, probes: Mapping[str, Probe], base: Seen, seen: Seen, kind: str) -> dict[str, list[float]]:
    """Per concept one value per prompt: over pairs of pictures whose originals show the concept.

    A prompt counts if more than half of its originals do, and at least two.
    """
    cells: dict[str, list[float]] = {}
    for concept, probe in probes.items():
        name = f"{kind}: {concept}"
        cells[concept] = []
        if name not in base.features:
            continue
        shows, present = probe.present(base.features[name]), probe.present(seen.features[name])
        before, after = (
            metrics.without_direction(item.features[name], probe.weights) for item in (base, seen)
        )  # fmt: skip
        for places in _by_prompt(asked, name):
            kept = [place for place in places if shows[place]]
            if len(kept) >= 2 and 2 * len(kept) > len(places):
                cells[concept].append(metrics.scene_kept(before[kept], after[kept], [present[place] for place in kept]))
    return cells


def _scaled(asked: Asked, probes: Mapping[str, Probe], base: Seen, edited: Seen) -> dict[str, dict[str, float]]:
    """M1 between pictures of something else (0) and originals of other seeds (1), per concept, with both ends."""
    found = {}
    for concept, probe in probes.items():
        before = metrics.without_direction(base.features[f"explicit: {concept}"], probe.weights)
        other = metrics.without_direction(base.features["retained"], probe.weights)
        floor = float(before.mean(0) @ other.mean(0))
        pairs = [
            (float(before[places].sum(0) @ before[places].sum(0)) - len(places)) / (len(places) * (len(places) - 1))
            for places in _by_prompt(asked, f"explicit: {concept}")
        ]
        ceiling = float(np.mean(pairs))
        values = _cells(asked, {concept: probe}, base, edited, "explicit")[concept]
        if ceiling - floor > 1e-3:
            value = metrics.scaled(float(np.mean(values)), floor, ceiling)
            found[concept] = {name: round(item, 6) for name, item in
                              (("value", value), ("floor", floor), ("ceiling", ceiling))}  # fmt: skip
    return found


# ---- M3, M4 --------------------------------------------------------------------------------------------------------


def _followed(base: Seen, seen: Seen, count: int | None, seed: int) -> Measured:
    """M3 without a text encoder: how often other prompts are followed, as a share of the base's."""
    before, after = (np.asarray(item.hits["retained"][:count], dtype=float) for item in (base, seen))
    if not before.any():
        raise Unsupported("the judge sees nothing that the other prompts name, even on the base; nothing can be said")
    chosen = _resamples(len(before), seed)
    samples = np.minimum(1.0, after[chosen].mean(1) / np.maximum(before[chosen].mean(1), 1e-9))
    return Measured(metrics.ratio_kept(float(before.mean()), float(after.mean())), samples, len(before))


def _alike(base: Seen, seen: Seen, count: int | None, seed: int) -> Measured:
    """M4 with pictures of the base from other seeds as reference."""
    center = metrics.unit(base.features["reference"]).mean(0)
    before, after = (metrics.unit(item.features["retained"][:count]) for item in (base, seen))
    start, end = (metrics.mean_distance(part.mean(0), center) for part in (before, after))
    samples = np.empty(RESAMPLES)
    for number, chosen in enumerate(_resamples(len(before), seed)):
        pair = [metrics.mean_distance(part[chosen].mean(0), center) for part in (before, after)]
        samples[number] = metrics.distribution_kept_offline(*pair)
    return Measured(metrics.distribution_kept_offline(start, end), samples, len(before))


def _resamples(size: int, seed: int) -> Any:
    return np.random.default_rng(seed).integers(0, size, size=(RESAMPLES, size))


def _means(values: Sequence[float], seed: int) -> Array:
    return np.asarray(np.asarray(values)[_resamples(len(values), seed)].mean(1))


# ---- rates, figures ------------------------------------------------------------------------------------------------


def _rates(
    probes: Mapping[str, Probe], looked: Mapping[str, Seen], seed: int
) -> tuple[list[EvalRow], dict[str, dict[str, list[int]]]]:
    """How often the judge of each concept sees it, and how often other prompts are followed."""
    hits: dict[str, dict[str, list[int]]] = {}
    for subject, seen in looked.items():
        hits[subject] = {
            metric: [
                int(item)
                for name, probe in probes.items()
                if f"{kind}: {name}" in seen.features
                for item in probe.present(seen.features[f"{kind}: {name}"])
            ]
            for metric, kind in (("target_rate", "explicit"), ("synonym_rate", "implicit"))
        } | {"kept_rate": seen.hits["retained"]}
    rows = [
        interval_row(metric, subject, mean_interval(values, seed), len(values))
        for subject, table in hits.items()
        for metric, values in table.items()
        if values
    ]
    return rows, hits


def _attach(report: EvalReport, base: Seen, edited: Seen, control: Seen) -> tuple[Attachment, ...]:
    from erase_plugins.evaluation.chart import bar_chart
    from erase_plugins.evaluation.sheet import contact_sheet

    title = f"EraseEval, offline: {', '.join(report.erased[:4])} erased by {', '.join(report.artifacts) or 'nothing'}"
    scores = [row for row in report.rows if row.metric in (M1, M2, M3, M4, SCORE)]
    names = [name for name in base.pictures if name in edited.pictures]
    sheet = [
        (f"{name}, {when}", list(seen.pictures[name]))
        for name in names
        for when, seen in (("before", base), ("after", edited))
    ]
    sheet.append(("control: destroyed model", list(control.pictures["retained"])))
    return (
        Attachment("contact_sheet.png", lambda path: contact_sheet(sheet, path, title=title), "before and after"),
        Attachment(
            "chart.png", lambda path: bar_chart(scores, path, title, "share kept"), "four metrics and the score"
        ),
    )
