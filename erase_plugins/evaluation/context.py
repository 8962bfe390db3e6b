"""What a suite is given besides its subject, and suites that need no subject at all. Imports no torch."""

from __future__ import annotations

import dataclasses
import inspect
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from erase_plugins.artifacts.locks import claim_files
from erase_plugins.errors import PluginError, RequestError
from erase_plugins.evaluation.attachments import output_names, write_report
from erase_plugins.evaluation.guarded import noted, with_refusals
from erase_plugins.evaluation.work import kept_work
from erase_plugins.options import as_dict, resolve
from erase_plugins.types import EvalReport

REPORT = "report.json"
#: among the files of a run: what guards refused
REFUSALS = "refused.jsonl"
Progress = Callable[[str, int, int], None]


def _silent(stage: str, done: int, total: int) -> None:
    """Progress that nobody watches."""


@dataclass(frozen=True)
class SuiteContext:
    """Services for one run of a suite.

    Attributes:
        seed: of everything random.
        device: where to compute ("cpu", "cuda:0" ...).
        work: empty folder for intermediate files; gone after the run. That of a suite with ``resumes = True`` outlives
            a killed run and is found again.
        options: settings of the suite, complete and checked if it has an ``Options`` dataclass.
        progress: tell (stage, done, total).
    """

    seed: int
    device: str
    work: Path
    options: Mapping[str, Any] = field(default_factory=dict)
    progress: Progress = _silent


def needs_subject(suite: Any) -> bool:
    """Whether a suite measures a model; ``needs_subject = False`` says that it brings all it needs."""
    return bool(getattr(suite, "needs_subject", True))


def needs_judge(suite: Any) -> bool:
    """Whether a suite or attack asks a judge; ``needs_judge = False`` says that it scores what it sees itself."""
    return needs_subject(suite) and bool(getattr(suite, "needs_judge", True))


def does_without_judge(suite: Any) -> bool:
    """Whether a suite that asks a judge also runs where there is none; ``judge_optional = True`` says so."""
    return bool(getattr(suite, "judge_optional", False))


def suite_options(suite: Any, given: Mapping[str, Any], what: str = "suite") -> dict[str, Any]:
    """Settings of a suite (or of another thing with ``Options``) from what the user gave.

    Raises:
        UnknownName: an option that the suite does not have.
        RequestError: it has none at all, or a wrong value.
    """
    options = getattr(suite, "Options", None)
    if options is None:
        if given:
            raise RequestError(
                f"{what} {suite.id} has no options, but {', '.join(sorted(given))} was set; leave it out"
            )
        return {}
    return as_dict(resolve(options, given))


def run_in_context(
    suite: Any, subject: Any, settings: Mapping[str, Any], *, seed: int = 0, device: str = "cpu",
    progress: Progress | None = None, out: Path | None = None, force: bool = False,
) -> EvalReport:  # fmt: skip
    """Runs a suite on a subject; suites of earlier versions that take the subject only keep working.

    A suite with ``resumes = True`` finds its ``work`` folder again after a kill. With ``out`` the report and its
    attachments are written while the suite's ``work`` folder is still there, so that an
    attachment may come from it; without, they stay in ``report.attachments``.

    Raises:
        EraseError: what the suite refuses, wrong settings, `PluginError` if it returns something else than a report.
    """
    options = suite_options(suite, settings)
    started = time.perf_counter()
    lasting = subject is not None and getattr(suite, "resumes", False)
    with kept_work("suite", suite, subject, options, 0, out) if lasting else _work() as work:
        ctx = SuiteContext(seed, device, work, options, progress or _silent)
        with nullcontext() if subject is None else noted(subject, work / REFUSALS) as refusals:
            report = suite.run(subject, ctx) if takes_context(suite.run) else suite.run(subject)
        if not isinstance(report, EvalReport):
            raise PluginError(f"suite {suite.id} returned {type(report).__name__} instead of an EvalReport")
        if refusals is not None:
            report = with_refusals(report, suite, subject.artifacts, refusals)
        measured = report.weights or (() if subject is None else subject.marks)
        told = tuple(dict.fromkeys((*report.warnings, *getattr(subject, "told", ()))))
        seconds = round(time.perf_counter() - started, 2)
        report = dataclasses.replace(report, weights=measured, warnings=told, seconds=seconds)
        return report if out is None else write_report(report, out, REPORT, output_names(suite, REPORT), force)


def takes_context(run: Callable[..., Any]) -> bool:
    """Whether ``run`` takes a subject and a context, or a subject only.

    Raises:
        PluginError: neither.
    """
    signature = inspect.signature(run)
    fits = signature.bind
    for arguments in ((None, None), (None,)):
        try:
            fits(*arguments)
            return len(arguments) == 2
        except TypeError:
            continue
    raise PluginError(f"run{signature} of a suite cannot be called; declare run(self, subject, ctx)")


@contextmanager
def _work() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="erase-plugins-suite-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run_alone(
    suite: Any, settings: Mapping[str, Any], *, out: Path | None = None, force: bool = False, seed: int = 0,
    device: str = "cpu", progress: Progress | None = None,
) -> EvalReport:  # fmt: skip
    """Runs a suite that needs no subject and writes its report and attachments.

    Args:
        suite: the registered suite; its ``subject`` is None.
        settings: options of the suite.
        out: folder for the files; None writes nothing.
        force: replace the files of an earlier evaluation.
        seed, device, progress: see `SuiteContext`.
    """
    with nullcontext() if out is None else claim_files(out, output_names(suite, REPORT), force):
        return run_in_context(suite, None, settings, seed=seed, device=device, progress=progress, out=out, force=force)
