"""The suite of classifiers: is the class forgotten, are the others still known, and would damage be noticed?

Measured on labelled pictures that were not trained on; the labels are the judge. ``target_rate`` is the accuracy on
what is forgotten (Acc_f), ``kept_rate`` on everything else (Acc_r), ``h`` their harmonic mean as in GS-LoRA. Subjects:
``base``, ``edited``, and ``destroyed``, a model that knows nothing and must score badly. Options add what unlearning is
judged by (`erase_plugins.evaluation.unlearning`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from erase_plugins.evaluation.classifier_figures import Figures
from erase_plugins.evaluation.classifier_measured import ClassifierOptions, Measured, given_of, row_of
from erase_plugins.families.labelled import harmonic, hits, scores
from erase_plugins.hookspecs import hookimpl
from erase_plugins.types import EvalReport, EvalRow

if TYPE_CHECKING:
    from erase_plugins.evaluation.context import SuiteContext
    from erase_plugins.evaluation.run import Subject


class ClassifierSuite:
    """Accuracy on forgotten and on other classes, and by options what unlearning is judged by."""

    id = "classifier"
    title = "Classifier suite (accuracy on forgotten and retained classes, H; UA, RA, TA, MIA, probes, attacks)"
    needs: frozenset[str] = frozenset({"classifier"})
    packages: frozenset[str] = frozenset()
    needs_judge = False
    Options = ClassifierOptions
    attachments = ("chart.png", "classes.png", "confusion.png", "blocks.png", "relearn.png", "weights.png")

    def run(self, subject: Subject, ctx: SuiteContext) -> EvalReport:
        """Measures with the edit on and off, and the destroyed model; further models as the options ask."""
        from erase_plugins.evaluation.bootstrap import mean_interval
        from erase_plugins.evaluation.unlearning import confusion

        options, model = ClassifierOptions(**ctx.options), subject.target
        given = given_of(subject, options)
        labels, held, mask = model.classifier.labels, given.held, given.held.where(given.gone)
        seen, tables = {}, {}
        for name, state in (("base", "off"), ("edited", "on"), ("destroyed", "destroyed")):
            with subject.under(state):
                guesses = scores(model, held).argmax(-1)
                right = (guesses == held.labels).long()
                seen[name] = right[mask] if given.gone else hits(model, given.samples), right[~mask]
                tables[name] = confusion(guesses, held.labels, len(labels))
            subject.queries += sum(map(len, seen[name]))
            ctx.progress(name, 1, 1)
        rows = [
            row_of(metric, name, mean_interval(found[side].tolist(), ctx.seed), len(found[side]))
            for name, found in seen.items()
            for side, metric in enumerate(("target_rate", "kept_rate"))
        ]
        if given.gone:  # of samples it is no aim that all labels become wrong
            rows.append(row_of("h", "edited", _harmonic_interval(seen, ctx.seed), len(held)))
        more = Measured(subject, ctx, options, given)
        rows += more.rows()
        table = {
            label: tuple(
                float(tables[name][number, number]) / float(tables[name][number].sum()) for name in ("base", "edited")
            )
            for number, label in enumerate(labels) if bool((given.held.labels == number).any())
        }  # fmt: skip
        what = ", ".join(subject.erased[:4]) or "samples"
        title = f"{what} forgotten by {', '.join(a.name for a in subject.artifacts) or 'nothing'}"
        figures = Figures(
            title, labels, given.gone, tables["base"], tables["edited"], table, tuple(rows), more.curves, more.variants
        )
        return EvalReport(
            suite=self.id, model=subject.model, rows=tuple(rows), artifacts=tuple(a.name for a in subject.artifacts),
            erased=tuple(subject.erased), strength=subject.strength, seeds=(ctx.seed,),
            warnings=(*_warnings(rows), *more.warnings),
            details={"classes": {name: list(pair) for name, pair in table.items()}, **more.details},
            attachments=figures.attachments([item.edit for item in subject.artifacts]),
        )  # fmt: skip


def _harmonic_interval(seen: Mapping[str, Any], seed: int) -> tuple[float, float, float]:
    """H with its bootstrap interval over pictures."""
    import numpy as np

    from erase_plugins.evaluation.bootstrap import RESAMPLES

    before, after = (seen[name][0].numpy() for name in ("base", "edited"))
    kept, rng = seen["edited"][1].numpy(), np.random.default_rng(seed)
    drawn = []
    for _ in range(RESAMPLES):
        rows = rng.integers(len(before), size=len(before))
        retain = kept[rng.integers(len(kept), size=len(kept))].mean()
        drawn.append(harmonic(before[rows].mean(), after[rows].mean(), retain))
    value = harmonic(before.mean(), after.mean(), kept.mean())
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(value), min(float(low), float(value)), max(float(high), float(value))


def _warnings(rows: Sequence[EvalRow]) -> list[str]:
    table = {(row.metric, row.subject): row.value for row in rows}
    found = []
    if table["target_rate", "base"] < 0.5:
        found.append("the base model knows fewer than half of the pictures that are forgotten; results say little")
    if table["kept_rate", "destroyed"] > 0.5:
        found.append("a destroyed model still gets most labels right; do not trust the kept rate")
    if table["kept_rate", "base"] - table["kept_rate", "edited"] > 0.04:
        found.append("other classes are damaged; retain more pictures (retain_share, keep), or lower beta or lr")
    return found


@hookimpl
def erase_suites() -> list[ClassifierSuite]:
    return [ClassifierSuite()]


@hookimpl
def erase_card_sections(artifact: Any, report: EvalReport | None) -> list[str]:
    from erase_plugins.evaluation.classifier_card import section

    found = section(artifact, report)
    return [found] if found else []
