"""Results of an earlier comparison, so that a new method or concept costs only its own cells."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from erase_plugins.comparison.cells import Cell
from erase_plugins.errors import RequestError
from erase_plugins.manager import get_manager


def earlier_results(path: str | Path) -> dict[str, dict[str, Any]]:
    """Finished cells of a ``comparison.json``: key -> result.

    Raises:
        RequestError: the file is none.
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        return {item["key"]: item for item in found["cells"] if item["status"] == "ok"}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RequestError(f"{path} is no comparison.json of an earlier comparison ({type(error).__name__})") from None


def reusable(cells: Sequence[Cell], plans: Mapping[str, Any], path: str | Path | None) -> dict[str, dict[str, Any]]:
    """Earlier results that stand for these cells: key -> result.

    A result stands for a cell of the same request (its key) whose method has the same version and still resolves to
    the same options, as far as both know them. That judge, prompts and base agree is checked where cells are averaged
    (`summary.check_comparable`). Pictures and artifacts do not come along.

    Args:
        cells, plans: the wanted cells, and the plans of those that can run.
        path: ``comparison.json``, or None.

    Raises:
        RequestError: the file is none.
    """
    earlier = earlier_results(path) if path is not None else {}
    versions = {entry.item.id: entry.version for entry in get_manager().methods()}
    found = {}
    for cell in cells:
        if cell.key in earlier and cell.key in plans:
            result = earlier[cell.key]
            now = json.loads(json.dumps(dict(plans[cell.key].options), default=str))
            same = all(now[name] == value for name, value in result["options"].items() if name in now)
            if same and result["method"].get("version") == versions[cell.method]:
                found[cell.key] = {**result, "reused": True}
    return found
