"""Where an audit keeps what is done: a hidden folder beside its pages, named by all that the numbers depend on.

The folder of an audit that was interrupted stays until the same options come again. That of other options is nobody's
to remove but the user's, so it is told of.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from erase_plugins.artifacts.atomic import atomic_file
from erase_plugins.artifacts.places import is_litter, walk
from erase_plugins.errors import Unsupported
from erase_plugins.hints import ANOTHER_OUT, Hint

_NAME = re.compile(r"\.audit-[0-9a-f]{12}")
#: says in a folder which audit it belongs to; written first, so that a folder with nothing else holds no work
_OPTIONS = "options.json"


@contextmanager
def work_folder(out: Path, key: str, options: Mapping[str, Any]) -> Iterator[Path]:
    """The folder in which the work of one audit is kept. It goes when the audit is done, and where nothing was.

    Args:
        out: folder of the pages.
        key: hash of all that the numbers depend on.
        options: of this audit, as people name them.

    Raises:
        Unsupported: something else is in its place.
    """
    work = out / f".audit-{key}"
    if work.is_symlink() or (work.exists() and not work.is_dir()):
        raise Unsupported(f"'{work.name}' in ", Hint("out"), " is no folder; choose ", ANOTHER_OUT)
    work.mkdir(parents=True, exist_ok=True)
    with atomic_file(work / _OPTIONS) as place:
        place.write_text(json.dumps(dict(options), indent=1, sort_keys=True), encoding="utf-8")
    try:
        yield work
    except BaseException:
        _drop(work)
        raise
    shutil.rmtree(work, ignore_errors=True)


def left_by_others(out: Path, key: str, options: Mapping[str, Any]) -> list[str]:
    """A sentence for each folder with work of an interrupted audit that is not this one; folders without work go.

    Args:
        out, key, options: as for `work_folder`.
    """
    found = sorted(item for item in out.glob(".audit-*") if _NAME.fullmatch(item.name) and not item.is_symlink())
    others = [item for item in found if item.is_dir() and item.name != f".audit-{key}" and not _drop(item)]
    return [
        f"'{item.name}' in '{out.name}' holds the work of an interrupted audit{_differs(item, options)}; ask for that "
        "one again and it goes on, or remove the folder"
        for item in others
    ]


def _differs(work: Path, options: Mapping[str, Any]) -> str:
    """What was asked of another audit in place of what is asked now."""
    try:
        before = json.loads((work / _OPTIONS).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # of an earlier version
        before = None
    if not isinstance(before, dict):
        return " with other options"
    told = [f"{name}={before[name]!s:.60}" for name in options if name in before and before[name] != options[name]]
    return f" with {', '.join(told)}" if told else " of other weights"


def _drop(work: Path) -> bool:
    """Removes a folder in which nothing is but the options that were written first; whether it is gone."""
    names = [path.relative_to(work).as_posix() for path in walk(work) if not path.is_dir() or path.is_symlink()]
    if all(name == _OPTIONS or is_litter(name) for name in names):
        shutil.rmtree(work, ignore_errors=True)
    return not work.exists()
