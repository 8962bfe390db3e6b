"""Writes what a suite or an attack attached to its report: into a folder that may hold other things. No torch."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any, TypeVar

from erase_plugins.artifacts.atomic import atomic_file
from erase_plugins.artifacts.places import FILE, check_place
from erase_plugins.errors import ArtifactError, EraseError, MissingExtra
from erase_plugins.hints import stored
from erase_plugins.plain_text import first_line
from erase_plugins.types import Attachment, AttackReport, EvalReport

Report = TypeVar("Report", EvalReport, AttackReport)


def output_names(item: Any, record: str) -> tuple[str, ...]:
    """Files that a suite or attack says it may write: its record and its attachments."""
    return (record, *getattr(item, "attachments", ()))


def write_report(report: Report, out: Path, record: str, expected: Collection[str], force: bool) -> Report:
    """Writes a report and its attachments into ``out``, which is made if it is not there.

    The numbers are never lost to a figure: an attachment that cannot be made or would replace somebody's file is left
    out, and a warning says so.

    Args:
        report: as the suite or attack returned it.
        out: the folder.
        record: file name of the report.
        expected: names whose places were claimed before the work (see `output_names`).
        force: whether files of an earlier evaluation may be replaced.

    Returns:
        The report with ``files``, ``attached`` and warnings, without attachments; ``unwritten`` names those that could
        not be written and why, but for what needs a package that is not installed.
    """
    out.mkdir(parents=True, exist_ok=True)
    files, attached, warnings = {"report": record}, {}, list(report.warnings)
    left = dict(report.unwritten)
    taken = {record}
    for item in report.attachments:
        try:
            if item.name in taken:
                raise ArtifactError(f"'{item.name}' was attached already")
            if item.name not in expected:
                check_place(out / item.name, force, FILE)
            attached[item.name] = {"title": item.title, "sha256": _write(item, out / item.name)}
        except EraseError as error:
            warnings.append(not_written(item.name, stored(error)))
            left |= {} if isinstance(error, MissingExtra) else {item.name: stored(error)}
            continue
        except Exception as error:  # a stranger's drawing may raise anything
            left[item.name] = first_line(error)
            warnings.append(not_written(item.name, left[item.name]))
            continue
        taken.add(item.name)
        stem = item.name.partition(".")[0]
        files[item.name if stem in files else stem] = item.name
    report = dataclasses.replace(
        report, files=files, attached=attached, warnings=tuple(warnings), attachments=(), unwritten=left
    )
    with atomic_file(out / record) as work:
        work.write_text(json.dumps(report.to_dict(), indent=2, sort_keys=True), encoding="utf-8")
    return report


def not_written(name: str, why: str) -> str:
    """The warning about a file that could not be written."""
    return f"{name} was not written: {why}"


def _write(item: Attachment, place: Path) -> str:
    """Makes a file under its own name in an empty folder, then puts it in place whole; returns its SHA-256."""
    with tempfile.TemporaryDirectory(prefix="erase-plugins-attachment-") as folder:
        made = Path(folder) / item.name
        item.write(made)
        if not made.is_file() or made.is_symlink():
            raise ArtifactError("nothing was made")
        with atomic_file(place) as work:
            shutil.copyfile(made, work)
        return hashlib.sha256(made.read_bytes()).hexdigest()
