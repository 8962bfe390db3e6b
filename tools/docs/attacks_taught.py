"""How long fine-tuning needs, for the table of attacks: the edited model, and the control of all methods."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tools.docs.attacks_table import Cell

RELEARN = "relearn"
#: fact of cells whose control was trained until it was back itself, or to the end, and not as long as the edited model
ITS_OWN = "control_steps"
_EDITED, _CONTROLS = "relearned, edited", ("relearned, reference", "relearned, destroyed")

Item = Mapping[str, Any]
Group = tuple[str, str, str]


def group(cell: Cell) -> Group:
    """Cells of a concept, a budget and a model have a common control."""
    return cell.concept, cell.budget, cell.model


def longest_taught(cells: Mapping[Cell, Item]) -> dict[Group, Item]:
    """The cell of each group whose control was trained longest; before it go those with a reference, and of its own."""
    found: dict[Group, Item] = {}
    for cell, item in cells.items():
        if (cell.attack, item["status"]) == (RELEARN, "ok"):
            found[group(cell)] = max(found.get(group(cell), item), item, key=_rank)
    return found


def _rank(item: Item) -> tuple[bool, bool, int]:
    told = item["found"]
    return "reference" in item["against"], ITS_OWN in told, told.get(ITS_OWN, told.get("steps", 0))


def is_taught(cell: Cell, cells: Mapping[Cell, Item]) -> bool:
    """Whether a cell's group has a control that was trained for itself."""
    item = longest_taught(cells).get(group(cell))
    return item is not None and ITS_OWN in item["found"]


def steps(cell: Cell, cells: Mapping[Cell, Item], longest: Mapping[Group, Item]) -> str:
    """Steps until it was back, for the edited model of a cell and the control of its group; empty for other attacks.

    Args:
        cell: of a table.
        cells: what is finished.
        longest: see `longest_taught`.
    """
    item = cells.get(cell)
    if cell.attack != RELEARN or item is None or item["status"] != "ok":
        return ""
    mine, other = (found["found"]["steps_until_back"] for found in (item, longest[group(cell)]))
    told = [mine[_EDITED], next(other[name] for name in _CONTROLS if name in other)]
    return f"; {', '.join(f'after {done} steps' if done else 'never' for done in told)}"
