"""What a suite is given besides its subject, and suites that need no subject at all. Imports no torch."""

from __future__ import annotations

import dataclasses
import inspect
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from erase_plugins.artifacts.atomic import atomic_file
from erase_plugins.artifacts.locks import claim_files
from erase_plugins.errors import PluginError, RequestError
from erase_plugins.options import as_dict, resolve
from erase_plugins.types import EvalReport

REPORT = "report.json"
Progress = Callable[[str, int, int], None]


def _silent(stage: str, done: int, total: int) -> None:
    """Progress that nobody watches."""


@dataclass(frozen=True)
class SuiteContext:
    """Services for one run of a suite.

    Attributes:
        seed: of everything random.
        device: where to compute ("cpu", "cuda:0" ...).
        work: empty folder for intermediate files; gone after the run.
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


def suite_options(suite: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a suite from what the user gave.

    Raises:
        UnknownName: an option that the suite does not have.
        RequestError: it has none at all, or a wrong value.
    """
    options = getattr(suite, "Options", None)
    if options is None:
        if given:
            raise RequestError(f"suite {suite.id} has no options, but {', '.join(sorted(given))} was set; leave it out")
        return {}
    return as_dict(resolve(options, given))


def run_in_context(
    suite: Any, subject: Any, settings: Mapping[str, Any], *, seed: int = 0, device: str = "cpu",
    progress: Progress | None = None,
) -> EvalReport:  # fmt: skip
    """Runs a suite on a subject; suites of earlier versions that take the subject only keep working.

    Raises:
        EraseError: what the suite refuses, wrong settings, `PluginError` if it returns something else than a report.
    """
    options = suite_options(suite, settings)
    started = time.perf_counter()
    with _work() as work:
        ctx = SuiteContext(seed, device, work, options, progress or _silent)
        report = suite.run(subject, ctx) if takes_context(suite.run) else suite.run(subject)
    if not isinstance(report, EvalReport):
        raise PluginError(f"suite {suite.id} returned {type(report).__name__} instead of an EvalReport")
    return dataclasses.replace(report, seconds=round(time.perf_counter() - started, 2))


def takes_context(run: Callable[..., Any]) -> bool:
    """Whether ``run`` takes a subject and a context, or a subject only.

    Raises:
        PluginError: neither.
    """
    signature = inspect.signature(run)
    for arguments in ((None, None), (None,)):
        try:
            signature.bind(*arguments)
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
    """Runs a suite that needs no subject and writes its report.

    Args:
        suite: the registered suite; its ``subject`` is None.
        settings: options of the suite.
        out: folder for report.json; None writes nothing.
        force: replace the report of an earlier evaluation.
        seed, device, progress: see `SuiteContext`.
    """
    with nullcontext() if out is None else claim_files(out, (REPORT,), force):
        report = run_in_context(suite, None, settings, seed=seed, device=device, progress=progress)
        return report if out is None else save_report(dataclasses.replace(report, files={"report": REPORT}), out)


def save_report(report: EvalReport, out: Path) -> EvalReport:
    """Writes report.json into ``out``, which is made if it is not there."""
    out.mkdir(parents=True, exist_ok=True)
    with atomic_file(out / REPORT) as work:
        work.write_text(json.dumps(report.to_dict(), indent=2, sort_keys=True), encoding="utf-8")
    return report
