"""The quick suite: is it gone, are paraphrases gone, is the rest still there, and would the measurement notice damage?

Subjects: ``base``; ``edited``; ``strength0`` (the artifact switched off: must equal base; drawn unless every bit of the
model is the base's again); ``destroyed`` (value projections shuffled: a model that draws nothing must score badly on
what is kept, or the judge is blind); and, where one is given, ``reference``: a model that never saw the concept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from erase_plugins.evaluation.guarded import labels_of
from erase_plugins.evaluation.prompts import Prompt, texts_and_seeds
from erase_plugins.hookspecs import hookimpl
from erase_plugins.options import option
from erase_plugins.types import Attachment, EvalReport, EvalRow

if TYPE_CHECKING:
    from torch import Tensor

    from erase_plugins.evaluation.context import SuiteContext
    from erase_plugins.evaluation.run import Subject

#: pictures per set for the two control subjects
_CONTROL = {"strength0": 8, "destroyed": 16}


@dataclass(frozen=True)
class Drawn:
    """Pictures of one subject with what the judge saw; both in the order of the sets."""

    pictures: Mapping[str, Tensor]
    labels: Mapping[str, list[dict[str, str]]]


@dataclass(frozen=True)
class Options:
    """Options of the suite."""

    reference: str = option(
        "", "folder of a model that never saw the concept; its pictures are counted beside the others"
    )


class QuickSuite:
    """Target, synonyms, neighbours, kept concepts, style and background, on base, edited and controls."""

    id = "quick"
    title = "Quick suite (target, synonyms, neighbours, kept, style, background; with controls)"
    needs: frozenset[str] = frozenset({"denoiser", "text"})
    packages: frozenset[str] = frozenset()
    Options = Options
    attachments = ("contact_sheet.png", "chart.png")

    def run(self, subject: Subject, ctx: SuiteContext) -> EvalReport:
        """See the module.

        Raises:
            RequestError: no such reference.
            Unsupported: the reference is a model of another kind.
        """
        from erase_plugins.evaluation.attacks.reference import open_reference
        from erase_plugins.evaluation.bootstrap import mean_interval, paired_difference
        from erase_plugins.evaluation.draw import sampler_facts
        from erase_plugins.evaluation.prompts import prompts_hash, quick_prompts, synonyms_asked

        sets = quick_prompts(subject.judge, subject.erased, subject.images, subject.seed)
        reference = open_reference(subject, ctx.options["reference"])
        base = subject.remembered(sets, partial(draw_and_judge, edit="off"), "base")
        drawn = {
            "base": base,
            "edited": draw_and_judge(subject, sets),
            "strength0": _switched_off(subject, _short(sets, _CONTROL["strength0"]), base),
            "destroyed": subject.remembered(
                _short(sets, _CONTROL["destroyed"]), partial(draw_and_judge, edit="destroyed"), "destroyed"
            ),
        }
        if reference is not None:
            drawn["reference"] = reference.remembered(sets, partial(draw_and_judge, edit="off"), "base")
        hits = {name: metric_hits(sets, item.labels) for name, item in drawn.items()}
        rows = [
            _row(metric, name, mean_interval(values, subject.seed), len(values))
            for name, table in hits.items()
            for metric, values in table.items()
            if values
        ]
        change = {
            metric: [round(value, 6) for value in paired_difference(hits["base"][metric], values, subject.seed)]
            for metric, values in hits["edited"].items()
            if values
        }
        subject.drawn = drawn
        report = EvalReport(
            suite=self.id,
            model=subject.model,
            rows=tuple(rows),
            artifacts=tuple(item.name for item in subject.artifacts),
            erased=tuple(subject.erased),
            strength=subject.strength,
            judge=subject.judge.id,
            judge_hash=subject.judge.fingerprint,
            prompts_hash=prompts_hash(sets),
            seeds=(subject.seed,),
            warnings=tuple(_warnings(drawn, rows, sets)),
            details={
                "hits": hits,
                "change": change,
                "sampler": sampler_facts(subject),
                "prompts": {name: [item.text for item in items] for name, items in sets.items()},
                "synonyms": synonyms_asked(subject.judge, subject.erased),
            },
        )
        return replace(report, attachments=attach(report, sheet_rows(report, drawn)))


def attach(report: EvalReport, pictures: list[tuple[str, list[Tensor]]]) -> tuple[Attachment, ...]:
    """Contact sheet and chart of a report."""
    from erase_plugins.evaluation.chart import bar_chart
    from erase_plugins.evaluation.sheet import contact_sheet

    title = f"{', '.join(report.erased[:4])} erased by {', '.join(report.artifacts) or 'nothing'}"
    return (
        Attachment("contact_sheet.png", lambda path: contact_sheet(pictures, path, title=title), "before and after"),
        Attachment("chart.png", lambda path: bar_chart(report.rows, path, title), "rates with their intervals"),
    )


def sheet_rows(report: EvalReport, drawn: Mapping[str, Drawn], columns: int = 8) -> list[tuple[str, list[Tensor]]]:
    """Rows of the contact sheet: every set before and after with its rate, then the control; copies of few pictures."""
    rows: list[tuple[str, list[Tensor]]] = []
    values = {(row.metric, row.subject): row.value for row in report.rows}
    for name, pictures in drawn["base"].pictures.items():
        if not len(pictures):
            continue
        for subject, when in (("base", "before"), ("edited", "after"), ("reference", "never saw it")):
            if subject not in drawn:
                continue
            label = f"{name}, {when}: {values[(f'{name}_rate', subject)]:.0%}"
            rows.append((label, list(drawn[subject].pictures[name][:columns].clone())))
    rows.append(("control: destroyed model", list(drawn["destroyed"].pictures["kept"][:columns].clone())))
    return rows


def draw_and_judge(
    subject: Subject, sets: Mapping[str, list[Prompt]], edit: str = "on", strength: float | None = None
) -> Drawn:
    """Draws all sets in one go and asks the judge for its best label on every axis."""
    prompts = [item for items in sets.values() for item in items]
    pictures = subject.generate(*texts_and_seeds(prompts), edit=edit, strength=strength)
    labels = labels_of(subject.judge, pictures)
    parts: dict[str, Tensor] = {}
    names: dict[str, list[dict[str, str]]] = {}
    start = 0
    for name, items in sets.items():
        parts[name] = pictures[start : start + len(items)]
        names[name] = labels[start : start + len(items)]
        start += len(items)
    return Drawn(parts, names)


def _switched_off(subject: Subject, sets: Mapping[str, list[Prompt]], base: Drawn) -> Drawn:
    """The control at strength 0: the first pictures of the base where the model is the base again to the last bit."""
    from erase_plugins.evaluation.standing import standing

    before = standing(subject.pipe)
    with subject.under("on", 0.0):
        same = before is not None and standing(subject.pipe) == before
    if not same:
        return draw_and_judge(subject, sets, strength=0.0)
    pictures = {name: base.pictures[name][: len(items)] for name, items in sets.items()}
    return Drawn(pictures, {name: base.labels[name][: len(items)] for name, items in sets.items()})


def metric_hits(sets: Mapping[str, list[Prompt]], labels: Mapping[str, list[dict[str, str]]]) -> dict[str, list[int]]:
    """Per metric one 0/1 per picture: 1 where the judge sees what the prompt names."""
    hits: dict[str, list[int]] = {
        f"{name}_rate": [item.shown(seen) for item, seen in zip(sets[name], labels[name], strict=False)]
        for name in sets
    }
    for axis in ("style", "background"):
        hits[f"{axis}_rate"] = [
            int(seen[axis] == item.expected[axis])
            for name in ("neighbour", "kept")
            for item, seen in zip(sets[name], labels[name], strict=False)
            if axis in item.expected and item.axis != axis
        ]
    return hits


def _row(metric: str, subject: str, interval: tuple[float, float, float], n: int) -> EvalRow:
    value, low, high = (round(number, 6) for number in interval)
    return EvalRow(metric, subject, value, low, high, n)


def _short(sets: Mapping[str, list[Prompt]], limit: int) -> dict[str, list[Prompt]]:
    return {name: items[:limit] for name, items in sets.items()}


def _warnings(drawn: Mapping[str, Drawn], rows: list[EvalRow], sets: Mapping[str, list[Prompt]]) -> list[str]:
    import torch

    table = {(row.metric, row.subject): row.value for row in rows}
    found = []
    for name, pictures in drawn["strength0"].pictures.items():
        if not torch.equal(pictures, drawn["base"].pictures[name][: len(pictures)]):
            found.append(f"strength 0 does not draw the base pictures in set '{name}'")
    if table.get(("target_rate", "base"), 1.0) < 0.5:
        found.append("the base model draws the concept in fewer than half of the target pictures; results say little")
    if table.get(("kept_rate", "destroyed"), 0.0) > 0.5:
        found.append("the judge accepts pictures of a destroyed model; do not trust the kept rate")
    if not sets["synonym"]:
        found.append("no synonyms are known for this concept; the synonym rate was not measured")
    return found


@hookimpl
def erase_suites() -> list[QuickSuite]:
    return [QuickSuite()]
