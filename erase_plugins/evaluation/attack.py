"""Runs an attack: budget, work that outlives a kill, and the files of its report."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from erase_plugins.artifacts.locks import claim_files
from erase_plugins.errors import PluginError
from erase_plugins.evaluation.attachments import output_names, write_report
from erase_plugins.evaluation.budget import Budget, find_budget
from erase_plugins.evaluation.context import REFUSALS, Progress, suite_options
from erase_plugins.evaluation.guarded import check_guards, noted, told_of_guards
from erase_plugins.evaluation.saved import record_name
from erase_plugins.evaluation.work import kept_work
from erase_plugins.types import AttackReport


def run_attack(
    attack: Any, open_subject: Callable[[], Any], budget: str | int = "quick", *,
    settings: Mapping[str, Any] | None = None, out: Path | None = None, force: bool = False,
    progress: Progress | None = None,
) -> AttackReport:  # fmt: skip
    """Runs an attack on a subject.

    With ``out``, what the attack has so far is kept there in a hidden folder until it is done: the same call after a
    kill goes on from it. Other artifacts, models, settings or budgets start anew.

    Args:
        attack: the registered attack.
        open_subject: makes the subject (`erase_plugins.workflow.measure.open_subject`); called after all checks.
        budget: "quick", "standard", "long", or a number of queries.
        settings: options of the attack.
        out: folder for the report and its attachments; None writes nothing.
        force: replace the files of an earlier run.
        progress: called with (stage, done, total).

    Raises:
        EraseError: wrong budget or settings, existing files, or what the attack refuses; `PluginError` if it returns
            something else than a report.
    """
    options = suite_options(attack, settings or {}, "attack")
    name, queries = find_budget(attack, budget, options)
    record = record_name(attack.id)
    names = output_names(attack, record)
    with nullcontext() if out is None else claim_files(out, names, force):
        subject = open_subject()
        check_guards(attack, subject.artifacts)
        started, asked, silent = time.perf_counter(), subject.queries, lambda stage, done, total: None
        with kept_work("attack", attack, subject, options, queries, out) as work:
            device = str(subject.target.device)
            given = Budget(subject.seed, device, work, options, progress or silent, name, queries)
            with noted(subject, work / REFUSALS) as refusals:
                report = attack.run(subject, given)
            if not isinstance(report, AttackReport):
                raise PluginError(f"attack {attack.id} returned {type(report).__name__} instead of an AttackReport")
            told = (*told_of_guards(attack, subject.artifacts, refusals), *getattr(subject, "told", ()))
            report = dataclasses.replace(
                report,
                warnings=tuple(dict.fromkeys((*report.warnings, *told))),
                **_left_out(report, subject, subject.queries - asked),
                seconds=round(time.perf_counter() - started, 2),
            )
            return report if out is None else write_report(report, out, record, names, force)


def _left_out(report: AttackReport, subject: Any, queries: int) -> dict[str, Any]:
    """What an attack did not say of its run and the runner knows: nobody may read "judge none" where one judged."""
    judge = subject.judge
    known = {
        "artifacts": tuple(item.name for item in subject.artifacts), "erased": tuple(subject.erased),
        "seeds": (subject.seed,), "queries": queries, "weights": subject.marks,
        **({"judge": judge.id, "judge_hash": judge.fingerprint} if judge is not None and not report.judge else {}),
    }  # fmt: skip
    return {"strength": subject.strength} | {name: value for name, value in known.items() if not getattr(report, name)}
