"""How long fine-tuning needs, for the table of attacks: the edited model, and the control of all methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tools.docs.attacks_cells import Cell

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


def against_reference(cells: Mapping[Cell, Item], methods: Sequence[str], budget: str, model: str) -> str:
    """Markdown: steps until each concept was back, as a share of the steps that a model needs which never saw it.

    Args:
        cells: what is finished.
        methods: of the lines, in this order; those without a cell are left out.
        budget, model: of the cells.
    """
    found = {
        (cell.method, cell.concept): item["found"]["steps_until_back"][_EDITED] for cell, item in cells.items()
        if (cell.attack, cell.budget, cell.model, item["status"]) == (RELEARN, budget, model, "ok")
    }  # fmt: skip
    longest, known = longest_taught(cells), {}
    for concept in sorted({concept for _, concept in found}):
        item = longest[concept, budget, model]
        steps_of = item["found"]["steps_until_back"].get(_CONTROLS[0])
        if ITS_OWN in item["found"] and steps_of:
            known[concept] = steps_of
    rows = [f"| | {' | '.join(known)} | mean |", "|---" * (len(known) + 2) + "|",
            f"| never saw it | {' | '.join(f'{done} steps' for done in known.values())} | |"]  # fmt: skip
    for method in methods:
        mine = {concept: found.get((method, concept)) for concept in known}
        if any(mine.values()):
            shares = {concept: done / known[concept] for concept, done in mine.items() if done}
            told = [f"{mine[concept]} ({shares[concept]:.0%})" if concept in shares else "never" for concept in known]
            mean = sum(shares.values()) / len(shares)
            rows.append(f"| `{method}` | {' | '.join(told)} | {mean:.0%} |")
    return "\n".join(rows)
