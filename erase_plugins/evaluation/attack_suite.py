"""The suite ``attacks``: every registered attack on one subject, in one report.

What an attack cannot do with a subject is a line "not run" with the reason; it ends nothing. Each attack that is done
is kept, so the same call after a kill goes on with the next one, and with what the interrupted one had.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from erase_plugins.errors import RequestError, UnknownName, Unsupported
from erase_plugins.evaluation.attachments import not_written, output_names
from erase_plugins.evaluation.attack import run_attack
from erase_plugins.evaluation.attack_summary import (
    CONTROL,
    base_rate,
    base_share,
    control_kind,
    control_share,
    plain_name,
)
from erase_plugins.evaluation.attacks.rates import PLAIN
from erase_plugins.evaluation.attacks.reference import find_reference
from erase_plugins.evaluation.budget import find_budget
from erase_plugins.evaluation.parts import ids_of, kept_report, options_of, run_parts
from erase_plugins.evaluation.saved import record_name
from erase_plugins.evaluation.wording import counted
from erase_plugins.extras import require
from erase_plugins.hookspecs import hookimpl
from erase_plugins.late import FUNCTIONS
from erase_plugins.needs import packages_of
from erase_plugins.options import option
from erase_plugins.types import Attachment, AttackReport, EvalReport, EvalRow

if TYPE_CHECKING:
    from erase_plugins.evaluation.context import SuiteContext
    from erase_plugins.evaluation.run import Subject

TABLE, CHART = "attacks.md", "chart.png"
BASE, ATTACKED = "base", "attacked"


@dataclass(frozen=True)
class Options:
    """Options of the suite."""

    budget: str = option("quick", "of each attack: quick, standard, long, or a number of queries")
    attacks: str = option("", "ids, with commas between them; all that are registered if empty")
    reference: str = option("", "folder of a model that never saw the concept; the control of attacks that take one")


class AttackSuite:
    """See the module."""

    id = "attacks"
    title = "All attacks at one budget (base, plain name, attacked, control)"
    needs: frozenset[str] = frozenset()
    resumes = True
    Options = Options

    @property
    def attachments(self) -> tuple[str, ...]:
        """Table, chart, and what every registered attack writes."""
        runners = chosen("")
        return (TABLE, CHART, *(name for runner in runners for name in output_names(runner, record_name(runner.id))))

    def run(self, subject: Subject, ctx: SuiteContext) -> EvalReport:
        """See the module.

        Raises:
            UnknownName: an attack or a budget of another name.
            RequestError: no such reference, or a budget that is too small (see `affordable`).
            Unsupported: not one attack could be run.
        """
        runners = chosen(ctx.options["attacks"])
        affordable(runners, ctx.options["budget"], bool(ctx.options["attacks"]))
        budget, reference = ctx.options["budget"], ctx.options["reference"]
        if reference:
            find_reference(reference)
        done, not_run = attack_all(subject, runners, budget, ctx.work, ctx.progress, reference)
        if not done:
            raise Unsupported(f"no attack could be run; {next(iter(not_run))}: {next(iter(not_run.values()))}")
        text = table(done, not_run)
        rows = tuple(row for report in done for row in summary_rows(report))
        bars = tuple(row for report in done for row in summary_rows(report, control_kind(report)))
        title = f"{', '.join(subject.erased[:4])}: attacks on {', '.join(item.name for item in subject.artifacts)}"
        return EvalReport(
            suite=self.id, model=subject.model, rows=rows, artifacts=tuple(item.name for item in subject.artifacts),
            erased=tuple(subject.erased), strength=subject.strength, judge=subject.judge.id,
            judge_hash=subject.judge.fingerprint, seeds=(subject.seed,),
            warnings=(
                *(f"{name}: not run: {reason}" for name, reason in not_run.items()),
                *(f"{item.attack}: {not_written(*lost)}" for item in done for lost in item.unwritten.items()),
            ),
            unwritten={name: why for report in done for name, why in report.unwritten.items()},
            details={"budget": ctx.options["budget"], "not_run": not_run, "table": text},
            attachments=(
                Attachment(TABLE, lambda path: path.write_text(text + "\n", encoding="utf-8"), "attacks in one table"),
                Attachment(CHART, partial(_chart, bars, title), "base, plain name, attacked, control"),
                *(item for report in done for item in _copies(report, ctx.work / report.attack)),
            ),
        )  # fmt: skip


def chosen(names: str) -> list[Any]:
    """The attacks with these ids, with commas between them; all that are registered if empty.

    Raises:
        UnknownName: not registered.
    """
    return list(FUNCTIONS["attacks"](ids_of(names)))


def affordable(runners: Sequence[Any], budget: str | int, named: bool) -> dict[str, int]:
    """What each attack may spend, before anything is drawn; those for which the budget is too small are left out.

    Args:
        runners: the attacks.
        budget: of each.
        named: the user chose them; then every one has to fit.

    Raises:
        UnknownName: a budget of another name.
        RequestError: the budget is too small for a named attack, or for all of them.
    """
    found: dict[str, int] = {}
    for number, runner in enumerate(runners):
        try:
            found[runner.id] = find_budget(runner, budget)[1]
        except UnknownName:
            raise
        except RequestError:
            if named or (number + 1 == len(runners) and not found):
                raise
    return found


def attack_all(
    subject: Any, runners: list[Any], budget: str | int, work: Path, progress: Any, reference: str = ""
) -> tuple[list[AttackReport], dict[str, str]]:
    """Runs attacks one after the other; one that fails ends nothing.

    Args:
        subject: what is attacked.
        runners: the attacks.
        budget: of each.
        work: folder in which the report of each is kept; one that is there already is not made again.
        progress: called with (stage, done, total).
        reference: folder of a model that never saw the concept, for the attacks that take one.

    Returns:
        The reports, and by attack why it was not run.
    """

    def make(runner: Any) -> AttackReport:
        return _one(subject, runner, budget, work / runner.id, progress, reference)

    done, not_run = run_parts(runners, make, progress, "attack")
    return list(done.values()), not_run


def with_reference(runner: Any, reference: str) -> dict[str, str]:
    """The setting that names the reference, for an attack or a suite that takes one."""
    return {"reference": reference} if reference and "reference" in options_of(runner) else {}


def _one(
    subject: Any, runner: Any, budget: str | int, folder: Path, progress: Any, reference: str
) -> AttackReport:  # fmt: skip
    require(packages_of(runner), "it")
    known = kept_report(folder / record_name(runner.id), AttackReport.from_dict)
    if known is not None:
        return known
    shown = lambda stage, done, total: progress(f"{runner.id}: {stage}", done, total)  # noqa: E731
    settings = with_reference(runner, reference)
    return run_attack(runner, lambda: subject, budget, settings=settings, out=folder, progress=shown)


def summary_rows(report: AttackReport, control: str = CONTROL) -> list[EvalRow]:
    """How often the concept came: in the base, by its plain name, under attack, in the control; a metric per attack.

    Args:
        report: of the attack.
        control: how its control is called; the note says what it is, where that is known.
    """
    parts = {BASE: base_rate(report), PLAIN: plain_name(report), ATTACKED: report.success, control: report.control}
    metric, kind = f"{report.attack.replace('-', '_')}_rate", control_kind(report)
    rows = [replace(row, metric=metric, subject=name) for name, row in parts.items() if row is not None]
    notes = dict.fromkeys([*(row.note for row in rows), "" if kind == CONTROL else f"{CONTROL}: {kind}"])
    return [*rows[:-1], replace(rows[-1], note="; ".join(filter(None, notes)))]  # tables show the last of a metric


def table(done: list[AttackReport], not_run: Mapping[str, str]) -> str:
    """Markdown: one line per attack; those that were not run say why."""
    lines = ["| attack | budget | base | plain name -> attacked | control | pictures, passes |", "|---" * 6 + "|"]
    for report in done:
        lines.append(
            f"| {report.attack} | {report.budget} | {base_share(report)} | {counted(plain_name(report))} -> "
            f"{counted(report.success)} | {control_share(report)} | {report.queries}, {report.passes} |"
        )
    lines += [f"| {name} | not run: {reason.replace('|', '/')} | - | - | - | - |" for name, reason in not_run.items()]
    return "\n".join(lines)


def _copies(report: AttackReport, folder: Path) -> list[Attachment]:
    """What an attack wrote, as attachments of this report."""
    return [
        Attachment(name, partial(shutil.copyfile, folder / name), str(report.attached.get(name, {}).get("title", "")))
        for name in report.files.values()
    ]


def _chart(rows: tuple[EvalRow, ...], title: str, path: Path) -> object:
    from erase_plugins.evaluation.chart import bar_chart

    return bar_chart(rows, path, title)


@hookimpl
def erase_suites() -> list[AttackSuite]:
    return [AttackSuite()]
