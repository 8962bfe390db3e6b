"""The suite of classifiers: is the class forgotten, are the others still known, and would damage be noticed?

Measured on labelled pictures that were not trained on; the labels are the judge. ``target_rate`` is the accuracy on
what is forgotten (Acc_f), ``kept_rate`` on everything else (Acc_r), ``h`` their harmonic mean as in GS-LoRA. Subjects:
``base``, ``edited``, and ``destroyed``, a model that knows nothing and must score badly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from erase_plugins.errors import RequestError
from erase_plugins.families.labelled import Labelled, harmonic, hits
from erase_plugins.families.labelled_data import referred, stored
from erase_plugins.families.labels import class_number
from erase_plugins.hookspecs import hookimpl
from erase_plugins.options import option
from erase_plugins.types import Attachment, DataRef, EvalReport, EvalRow

if TYPE_CHECKING:
    from erase_plugins.evaluation.context import SuiteContext
    from erase_plugins.evaluation.run import Subject

#: classes in the figure, those that lose most
_SHOWN = 20


@dataclass(frozen=True)
class ClassifierOptions:
    """What is measured on."""

    pictures: str | None = option(None, "folder of pictures, one folder per label; none: those beside the model")


class ClassifierSuite:
    """Accuracy on forgotten and on other classes."""

    id = "classifier"
    title = "Classifier suite (accuracy on forgotten and retained classes, H; with a control)"
    needs: frozenset[str] = frozenset({"classifier"})
    packages: frozenset[str] = frozenset()
    needs_judge = False
    Options = ClassifierOptions
    attachments = ("chart.png", "classes.png")

    def run(self, subject: Subject, ctx: SuiteContext) -> EvalReport:
        """Measures accuracies with the edit on and off, and of the destroyed model."""
        from erase_plugins.evaluation.bootstrap import mean_interval

        held, model = self._pictures(subject, ctx.options.get("pictures")), subject.target
        labels = model.classifier.labels
        gone = [class_number(name, labels, model.info.model) for name in subject.erased]
        mask = held.where(gone)
        if not gone or not bool(mask.any()) or bool(mask.all()):
            raise RequestError(
                f"{int(mask.sum())} of {len(mask)} pictures show {', '.join(subject.erased) or 'no class'}; give "
                "some of forgotten and of other classes (--set pictures=folder), or name the classes with --erased"
            )
        seen = {}
        for name, state in (("base", "off"), ("edited", "on"), ("destroyed", "destroyed")):
            with subject.under(state):
                seen[name] = hits(model, held)
            subject.queries += len(held)
            ctx.progress(name, 1, 1)
        rows = [
            _row(metric, name, mean_interval(found[which].tolist(), ctx.seed), int(which.sum()))
            for name, found in seen.items()
            for metric, which in (("target_rate", mask), ("kept_rate", ~mask))
        ]
        rows.append(_row("h", "edited", _harmonic_interval(seen, mask, ctx.seed), len(held)))
        table = {
            label: tuple(float(seen[name][held.labels == number].float().mean()) for name in ("base", "edited"))
            for number, label in enumerate(labels) if bool((held.labels == number).any())
        }  # fmt: skip
        title = (
            f"{', '.join(subject.erased[:4])} forgotten by {', '.join(a.name for a in subject.artifacts) or 'nothing'}"
        )
        return EvalReport(
            suite=self.id, model=subject.model, rows=tuple(rows), artifacts=tuple(a.name for a in subject.artifacts),
            erased=tuple(subject.erased), strength=subject.strength, seeds=(ctx.seed,),
            warnings=tuple(_warnings(rows)), details={"classes": {name: list(pair) for name, pair in table.items()}},
            attachments=_figures(rows, table, [labels[number] for number in gone], title),
        )  # fmt: skip

    def _pictures(self, subject: Subject, folder: Any) -> Labelled:
        found = stored(subject.target, "test") if folder is None else referred(subject.target, DataRef(str(folder)))
        if found is None:
            raise RequestError(
                f"there are no pictures beside {subject.model} to measure on; give a folder with one folder per label: "
                "--set pictures=folder"
            )
        return found


def _row(metric: str, subject: str, interval: Sequence[float], n: int) -> EvalRow:
    value, low, high = (round(number, 6) for number in interval)
    return EvalRow(metric, subject, value, low, high, n)


def _harmonic_interval(seen: Mapping[str, Any], mask: Any, seed: int) -> tuple[float, float, float]:
    """H with its bootstrap interval over pictures."""
    import numpy as np

    from erase_plugins.evaluation.bootstrap import RESAMPLES

    before, after = (seen[name][mask].numpy() for name in ("base", "edited"))
    kept, rng = seen["edited"][~mask].numpy(), np.random.default_rng(seed)
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
        found.append("other classes are damaged; retain more pictures (retain_share, --keep), or lower beta or lr")
    return found


def _figures(
    rows: Sequence[EvalRow], table: Mapping[str, tuple[float, ...]], gone: Sequence[str], title: str
) -> tuple[Attachment, ...]:
    from erase_plugins.evaluation.chart import bar_chart, class_chart

    others = sorted((name for name in table if name not in gone), key=lambda name: table[name][1] - table[name][0])
    shown = {name: (table[name][0], table[name][1]) for name in [*(n for n in gone if n in table), *others][:_SHOWN]}
    rates = [row for row in rows if row.metric != "h"]
    return (
        Attachment("chart.png", lambda path: bar_chart(rates, path, title), "accuracies with their intervals"),
        Attachment("classes.png", lambda path: class_chart(shown, path, title), "accuracy by class, before and after"),
    )


@hookimpl
def erase_suites() -> list[ClassifierSuite]:
    return [ClassifierSuite()]
