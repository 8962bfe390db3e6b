"""The contract that suites and attacks keep, as pytest classes and as a plain function.

    from erase_plugins.testing.measuring import AttackContract, SuiteContract

    class TestMySuite(SuiteContract):
        names = ("my-suite",)

Runs on the embedded model with one small edit, or on another ``model`` of `testing.models.MODELS` with an ``edit`` of a
method that fits; a suite with ``needs_subject = False`` runs without a model. Needs no network. ``settings`` makes a
slow suite or attack cheap.
"""

from __future__ import annotations

import dataclasses
import json
import math
import tempfile
from collections.abc import Callable, Mapping
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from erase_plugins.testing.items import ItemContract, described, failures
from erase_plugins.types import AttackReport, EvalReport, EvalRow

SUITE, ATTACK = "suite", "attack"
#: method and concept of the edit that is measured
EDIT = ("uce", "pizza")


@dataclasses.dataclass(frozen=True)
class Seen:
    """One run: its report, the files that it left beside it, how the model changed, how many answers it generated."""

    report: Any
    files: frozenset[str]
    difference: str
    asked: int


@dataclasses.dataclass
class Measured:
    """One suite or attack under test, with a run that the checks share (made on first use)."""

    kind: str
    name: str
    settings: Mapping[str, Any]
    queries: int = 0
    model: str = "pocket"
    edit: tuple[str, str] = EDIT
    asked: int = 0

    @property
    def item(self) -> Any:
        """The registered object."""
        from erase_plugins.manager import get_manager

        return get_manager().evaluator(self.name, self.kind)

    @property
    def alone(self) -> bool:
        """Whether it needs no model."""
        return self.kind == SUITE and not getattr(self.item, "needs_subject", True)

    @cached_property
    def first(self) -> Seen:
        """The shared run."""
        from erase_plugins.testing.models import changed_since, shared_pipeline
        from erase_plugins.testing.observe import snapshot

        pipe = None if self.alone else shared_pipeline(self.model)
        before = snapshot(pipe) if pipe is not None else None
        with tempfile.TemporaryDirectory() as folder:
            try:
                report = self.run(Path(folder) / "out")
            finally:
                difference = "" if before is None else changed_since(pipe, before)
            files = frozenset(item.name for item in (Path(folder) / "out").iterdir())
        return Seen(report, files, difference, self.asked)

    def run(self, out: Path | None = None, **more: Any) -> Any:
        """Its report."""
        from erase_plugins.evaluation.attack import run_attack
        from erase_plugins.evaluation.context import run_in_context

        if self.kind == ATTACK:
            subject = self._subject()
            report = run_attack(self.item, lambda: subject, self.queries, settings=self.settings, out=out, **more)
            self.asked = subject.queries
            return report
        return run_in_context(self.item, None if self.alone else self._subject(), self.settings, out=out, **more)

    def _subject(self) -> Any:
        from erase_plugins.testing.models import shared_pipeline
        from erase_plugins.workflow.measure import open_subject

        made = _edit(self.model, *self.edit)
        return open_subject(shared_pipeline(self.model), [made], self.item, images=2, steps=2)


@lru_cache(maxsize=4)
def _edit(model: str, method: str, concept: str) -> Any:
    import erase_plugins
    from erase_plugins.testing.models import shared_pipeline

    return erase_plugins.erase(shared_pipeline(model), concept, method)


def describes_itself(case: Measured) -> None:
    """The registry accepts it; it has a title, and every option has help and an allowed default."""
    from erase_plugins.options import describe, resolve

    described("erase_suites" if case.kind == SUITE else "erase_attacks", case.item)
    options = getattr(case.item, "Options", None)
    if options is not None:
        resolve(options, {})
        silent = [item.name for item in describe(options) if not item.help]
        assert not silent, f"options without help: {', '.join(silent)}"


def report_is_valid(case: Measured) -> None:
    """A report of the right kind, named after it, with values inside their intervals, that survives JSON."""
    report = case.first.report
    wanted: type[Any] = EvalReport if case.kind == SUITE else AttackReport
    assert isinstance(report, wanted), f"run returned {type(report).__name__}, not {wanted.__name__}"
    assert getattr(report, case.kind) == case.name, f"the report is of {getattr(report, case.kind)}, not {case.name}"
    rows = _rows(report)
    assert rows, "the report has no row: nothing was measured"
    for row in rows:
        right = (
            all(map(math.isfinite, (row.low, row.value, row.high))) and row.low <= row.value <= row.high and row.n > 0
        )
        assert right, f"{row.metric} of {row.subject} is {row.value} [{row.low}..{row.high}], n={row.n}"
    again = wanted.from_dict(json.loads(json.dumps(report.to_dict(), allow_nan=False)))
    assert _rows(again) == rows, "written as JSON and read back, the report is another one"


def runs_are_equal(case: Measured) -> None:
    """Two runs with one seed give the same numbers."""
    assert _rows(case.first.report) == _rows(case.run()), "take random numbers from the seed you are given only"


def leaves_the_model_alone(case: Measured) -> None:
    """Weights bit for bit and module structure as before."""
    assert not case.first.difference, f"after the run, {case.first.difference}"


def attachments_are_written(case: Measured) -> None:
    """Every attachment is declared in ``attachments``, can be written, and is there beside the report."""
    report, there = case.first.report, case.first.files
    missing = [text for text in report.warnings if "was not written" in text and "pip install" not in text]
    assert not missing, missing[0] if missing else ""
    odd = sorted(set(report.attached) - set(getattr(case.item, "attachments", ())))
    assert not odd, f"name {', '.join(odd)} in the attribute 'attachments', so that it is asked for before the work"
    assert there == set(report.files.values()), f"the folder holds {', '.join(sorted(there))}"


def success_is_controlled(case: Measured) -> None:
    """An attack says what it found, and measures a control with as much care as its success."""
    report = case.first.report
    assert report.found, "report.found is empty; say what was tried even if it did not work"
    json.dumps(dict(report.found), allow_nan=False)
    assert report.control.subject != report.success.subject, "there is no control run"


def budget_is_kept(case: Measured) -> None:
    """No more answers of the model are looked at than the budget allows, and the report counts them."""
    report = case.first.report
    assert 0 < report.queries <= case.queries, f"{report.queries} queries were reported, {case.queries} are allowed"
    assert case.first.asked <= case.queries, f"{case.first.asked} answers were generated, {case.queries} are allowed"


GENERAL: tuple[Callable[[Measured], None], ...] = (
    describes_itself, report_is_valid, runs_are_equal, leaves_the_model_alone, attachments_are_written,
)  # fmt: skip
CHECKS = {SUITE: GENERAL, ATTACK: (*GENERAL, success_is_controlled, budget_is_kept)}


def measuring_report(
    kind: str,
    name: str,
    settings: Mapping[str, Any] | None = None,
    queries: int = 0,
    model: str = "pocket",
    edit: tuple[str, str] = EDIT,
) -> dict[str, str]:
    """Runs the contract of a suite or attack without pytest.

    Args:
        kind: "suite" or "attack".
        name: registered id.
        settings: options that make it cheap.
        queries: budget of an attack; a tenth of its quick one, and at least 40, if 0.
        model: name in `erase_plugins.testing.models.MODELS`.
        edit: method and concept of the edit that is measured.

    Returns:
        Failed checks with the reason; empty if the contract is kept.
    """
    return failures(_case(kind, name, settings or {}, queries, model, edit), CHECKS[kind])


def _case(
    kind: str, name: str, settings: Mapping[str, Any], queries: int, model: str, edit: tuple[str, str]
) -> Measured:
    from erase_plugins.evaluation.budget import least_budget

    case = Measured(kind, name, settings, queries, model, edit)
    if kind == ATTACK and not queries:
        case.queries = max(40, case.item.budgets["quick"] // 10, least_budget(case.item, case.settings))
    return case


def _rows(report: Any) -> tuple[EvalRow, ...]:
    return (*report.rows, report.success, report.control) if isinstance(report, AttackReport) else tuple(report.rows)


class _Contract(ItemContract):
    """One test per name and check.

    Attributes:
        settings: options by id that make it cheap.
        queries: budget of attacks; see `measuring_report`.
        model: name in `erase_plugins.testing.models.MODELS`.
        edit: method and concept of the edit that is measured.
    """

    kind = SUITE
    checks = CHECKS[SUITE]
    settings: Mapping[str, Mapping[str, Any]] = {}
    queries = 0
    model = "pocket"
    edit: tuple[str, str] = EDIT

    def case(self, name: str) -> Measured:
        return _case(self.kind, name, self.settings.get(name, {}), self.queries, self.model, self.edit)


class SuiteContract(_Contract):
    """Subclass it under a name that starts with ``Test``."""


class AttackContract(_Contract):
    """Subclass it under a name that starts with ``Test``."""

    kind = ATTACK
    checks = CHECKS[ATTACK]
