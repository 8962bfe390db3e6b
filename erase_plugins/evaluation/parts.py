"""What suites that run several attacks or suites share: a failure ends nothing, what is done is not made again.

Imports no torch.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from erase_plugins.errors import EraseError, RunCancelled
from erase_plugins.hints import stored
from erase_plugins.plain_text import first_line

Report = TypeVar("Report")


def ids_of(text: str) -> tuple[str, ...]:
    """Ids with commas between them, each once."""
    return tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def options_of(part: Any) -> set[str]:
    """Names of the options of an attack or a suite."""
    return {item.name for item in fields(part.Options)} if getattr(part, "Options", None) else set()


def run_parts(
    parts: Iterable[Any], make: Callable[[Any], Report], progress: Callable[[str, int, int], None], kind: str
) -> tuple[dict[str, Report], dict[str, str]]:
    """Makes the report of each; what cannot be done has its reason, and ends nothing.

    Args:
        parts: with ids.
        make: the report of one.
        progress: called with (stage, done, total).
        kind: what they are, for the stages.

    Returns:
        The reports, and by id why there is none.

    Raises:
        RunCancelled: as it comes.
    """
    chosen = list(parts)
    done: dict[str, Report] = {}
    not_run: dict[str, str] = {}
    for number, part in enumerate(chosen):
        progress(f"{kind} {part.id}", number, len(chosen))
        try:
            done[part.id] = make(part)
        except RunCancelled:
            raise
        except EraseError as error:
            not_run[part.id] = stored(error)
        except Exception as error:  # a stranger's code may raise anything
            not_run[part.id] = first_line(error)
    progress(f"{kind}s", len(chosen), len(chosen))
    return done, not_run


def kept_report(place: Path, read: Callable[[Any], Report]) -> Report | None:
    """The report at ``place``, or None; the folder of one that a crash of the machine tore is removed.

    Args:
        place: of the file.
        read: makes the report of what is in it.
    """
    if place.is_file():
        try:
            return read(json.loads(place.read_text(encoding="utf-8")))
        except (EraseError, ValueError):
            shutil.rmtree(place.parent, ignore_errors=True)
    return None
