"""The suite ``full``: the other suites that fit a model, one after the other, in one report.

What a suite cannot do with a subject is a line "not run" with the reason; it ends nothing. Each suite that is done is
kept with its files, so the same call after a kill goes on with the next one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from erase_plugins.errors import RequestError, Unsupported
from erase_plugins.evaluation.attachments import output_names
from erase_plugins.evaluation.attacks.reference import find_reference
from erase_plugins.evaluation.context import REPORT, needs_judge, needs_subject, run_in_context
from erase_plugins.evaluation.full_report import TABLE, handed_on, merged, prefixed, table, warnings_of
from erase_plugins.evaluation.parts import ids_of, kept_report, options_of, run_parts
from erase_plugins.extras import require
from erase_plugins.hookspecs import hookimpl
from erase_plugins.late import FUNCTIONS
from erase_plugins.needs import lacks, packages_of
from erase_plugins.options import option
from erase_plugins.types import BUDGETS, Attachment, EvalReport

if TYPE_CHECKING:
    from erase_plugins.evaluation.context import SuiteContext
    from erase_plugins.evaluation.run import Subject

#: budget -> how many times the pictures of a set that were asked for
PICTURES = dict(zip(BUDGETS, (1, 2, 4), strict=True))


@dataclass(frozen=True)
class Options:
    """Options of the suite."""

    budget: str = option(
        BUDGETS[0], "of attacks; standard and long take 2 and 4 times the pictures too", choices=BUDGETS
    )
    reference: str = option("", "folder of a model that never saw the concept, for the suites that take one")
    suites: str = option("", "ids, with commas between them; all that fit the model if empty")


class FullSuite:
    """See the module."""

    id = "full"
    title = "All suites that fit the model, in one report"
    needs: frozenset[str] = frozenset()
    packages: frozenset[str] = frozenset()
    resumes = True
    judge_optional = True
    Options = Options

    @property
    def attachments(self) -> tuple[str, ...]:
        """The table, and what every other registered suite writes, under the name that it may get here."""
        parts = [item for item in FUNCTIONS["suites"]() if item.id != self.id]
        names = [(item, name) for item in parts for name in output_names(item, REPORT)]
        both = [name for item, own in names for name in (own, prefixed(item.id, own)) if name != REPORT]
        return tuple(dict.fromkeys((TABLE, *both)))

    def run(self, subject: Subject, ctx: SuiteContext) -> EvalReport:
        """See the module.

        Raises:
            UnknownName: a suite of another name.
            RequestError: no such reference, or this suite among those to run.
            Unsupported: not one suite could be run.
        """
        parts = self.chosen(ctx.options["suites"], subject.target.info)
        if ctx.options["reference"]:
            find_reference(ctx.options["reference"])
        done, not_run = run_parts(parts, lambda part: _one(part, subject, ctx), ctx.progress, "suite")
        if not done:
            raise Unsupported(
                "no suite could be run; " + ("; ".join(map(": ".join, not_run.items())) or "none fits the model")
            )
        rows, metrics = merged(done)
        text = table(rows, metrics, not_run)
        public = {item.erased for item in done.values()} - {(), tuple(subject.erased)}
        judge = {} if subject.judge is None else {"judge": subject.judge.id, "judge_hash": subject.judge.fingerprint}
        return EvalReport(
            suite=self.id, model=subject.model, rows=rows, artifacts=tuple(item.name for item in subject.artifacts),
            erased=next(iter(public), tuple(subject.erased)),  # a suite may know people by another word than their name
            strength=subject.strength, **judge, seeds=(subject.seed,),
            warnings=(*(f"{name}: not run: {reason}" for name, reason in not_run.items()), *warnings_of(subject, done)),
            unwritten={name: why for item in done.values() for name, why in item.unwritten.items()},
            details={
                "budget": ctx.options["budget"], "not_run": not_run, "table": text, "metrics": metrics,
                "prompts_hashes": {name: item.prompts_hash for name, item in done.items() if item.prompts_hash},
            },
            attachments=(
                Attachment(TABLE, lambda path: path.write_text(text + "\n", encoding="utf-8"), "suites in one table"),
                *handed_on(done, {name: _folder(ctx.work, name, subject) for name in done}),
            ),
        )  # fmt: skip

    def chosen(self, names: str, info: Any) -> list[Any]:
        """The suites with these ids, with commas between them; if empty, the others that fit a model.

        Raises:
            UnknownName: not registered.
            RequestError: this one.
        """
        wanted = ids_of(names)
        found = {item.id: item for item in FUNCTIONS["suites"](wanted)}
        if wanted and self.id in found:
            raise RequestError(f"suite {self.id} cannot be a part of itself; leave it out of suites")
        if wanted:
            return list(found.values())
        return [item for item in found.values() if item.id != self.id and needs_subject(item) and not lacks(item, info)]


def _one(part: Any, subject: Any, ctx: SuiteContext) -> EvalReport:
    """The report of one suite; one that is there already is not made again."""
    require(packages_of(part), "it")
    if not needs_subject(part):
        raise Unsupported("it measures no model; run it on its own")
    if lacking := lacks(part, subject.target.info):
        raise Unsupported(f"it needs {', '.join(lacking)}, which {subject.model} does not offer")
    if needs_judge(part) and subject.judge is None:
        raise subject.unjudged or Unsupported("it asks a judge, and there is none")
    folder = _folder(ctx.work, part.id, subject)
    known = kept_report(folder / REPORT, EvalReport.from_dict)
    if known is not None:
        return known
    names = options_of(part)
    settings: dict[str, Any] = {
        name: ctx.options[name] for name in ("budget", "reference") if name in names and ctx.options[name]
    }

    def shown(stage: str, done: int, total: int) -> None:
        ctx.progress(f"{part.id}: {stage}", done, total)

    with _more_pictures(subject, PICTURES[ctx.options["budget"]]):
        return run_in_context(
            part, subject, settings, seed=ctx.seed, device=ctx.device, progress=shown, out=folder, force=True
        )


def _folder(work: Path, name: str, subject: Any) -> Path:
    """Where the files of a suite are kept; the name of ``work`` does not say how many pictures were asked for."""
    return work / f"{name}-{subject.images}"


@contextmanager
def _more_pictures(subject: Any, times: int) -> Iterator[None]:
    before = subject.images
    subject.images = before * times
    try:
        yield
    finally:
        subject.images = before


@hookimpl
def erase_suites() -> list[FullSuite]:
    return [FullSuite()]
