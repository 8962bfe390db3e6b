"""What the suite ``full`` makes of the reports of its parts: rows, table, files, warnings. Imports no torch."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from erase_plugins.evaluation.context import REPORT
from erase_plugins.evaluation.wording import STATES, cell
from erase_plugins.types import Attachment, EvalReport, EvalRow

TABLE = "full.md"
#: characters that a file name may have before its ending
_LONGEST = 80


def merged(done: Mapping[str, EvalReport]) -> tuple[tuple[EvalRow, ...], dict[str, list[str]]]:
    """All rows, and by suite what its metrics are called: SUITE/METRIC where an earlier suite has one of that name."""
    rows: list[EvalRow] = []
    metrics: dict[str, list[str]] = {}
    for name, report in done.items():
        taken = {metric for known in metrics.values() for metric in known}
        called = {row.metric: f"{name}/{row.metric}" if row.metric in taken else row.metric for row in report.rows}
        rows += [replace(row, metric=called[row.metric]) for row in report.rows]
        metrics[name] = list(called.values())
    return tuple(rows), metrics


def table(rows: Sequence[EvalRow], metrics: Mapping[str, Sequence[str]], not_run: Mapping[str, str]) -> str:
    """Markdown: one line per metric of every suite; suites that were not run say why."""
    lines = ["| suite | metric | measured |", "|---|---|---|"]
    for name, own in metrics.items():
        for metric in own:
            found = [f"{STATES.get(row.subject, row.subject)} {cell(row)}" for row in rows if row.metric == metric]
            lines.append(f"| {name} | {_plain(metric)} | {_plain('; '.join(found))} |")
    return "\n".join([*lines, *(f"| {name} | not run: {_plain(reason)} | - |" for name, reason in not_run.items())])


def _plain(text: str) -> str:
    return text.replace("|", "/").replace("\n", " ")


def prefixed(suite: str, name: str) -> str:
    """What a file of a suite is called where another one has its name."""
    stem, dot, ending = name.partition(".")
    return f"{suite.replace('.', '-')}-{stem}"[:_LONGEST] + dot + ending


def handed_on(done: Mapping[str, EvalReport], folders: Mapping[str, Path]) -> list[Attachment]:
    """What the suites wrote, as attachments of this report; of two files of one name the later gets its suite's."""
    found: list[Attachment] = []
    for suite, report in done.items():
        for own in report.files.values():
            taken = {TABLE, REPORT, *(item.name for item in found)}
            title = report.attached.get(own, {}).get("title", "") or "report"
            name = prefixed(suite, own) if own in taken else own
            found.append(Attachment(name, partial(shutil.copyfile, folders[suite] / own), f"{suite}: {title}"))
    return found


def warnings_of(subject: Any, done: Mapping[str, EvalReport]) -> list[str]:
    """What the suites warn of, once each; what the artifacts themselves say is told for all of them."""
    told: dict[str, list[str]] = {}
    for name, report in done.items():
        for text in report.warnings:
            told.setdefault(text, []).append(name)
    known = getattr(subject, "told", {})
    return [f"{', '.join(names)}: {text}" for text, names in told.items() if text not in known]
