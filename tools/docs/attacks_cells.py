"""The cells behind the tables of docs/attacks.md: a method under an attack, where it is stored, what its control is."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from erase_plugins.evaluation.attacks.rates import REFERENCE, control_row
from erase_plugins.families.source import POCKET
from tools.docs.attacks_taught import RELEARN

ROOT = Path(__file__).parents[2]
CELLS = Path("docs/results/attacks")
REFERENCE_ROW = control_row(REFERENCE)
INVERSION = "concept-inversion"
LONGEST = "long"
#: attacks that ask, and choose by what they see; their controls choose for themselves, which a cell says: ``searched``
CHOOSING = ("paraphrase", "described", "readable")
#: attacks whose controls no edit decides, only how long was trained
SHARED = (INVERSION, RELEARN, "noise", "edit", *CHOOSING)


def in_files(text: str) -> str:
    """How files and folders are called after concepts and options."""
    return re.sub("[ :=,]", "-", text)


@dataclass(frozen=True)
class Cell:
    """A method under an attack; with its defaults, or as ``method:option=value`` says; ``a+b`` are both edits."""

    concept: str
    attack: str
    method: str
    budget: str = "quick"
    model: str = POCKET

    @property
    def key(self) -> str:
        """File name without ending."""
        more = "" if self.budget == "quick" else f"-{self.budget}"
        return in_files(f"{self.concept}-{self.attack}-{self.method}{more}{self.on}")

    @property
    def edits(self) -> list[str]:
        """Edits in force, each a method or ``method:option=value``."""
        return self.method.split("+")

    @property
    def on(self) -> str:
        """What names the model in names of files."""
        return "" if self.model == POCKET else f"-on-{self.model}"


def plan(
    concepts: Sequence[str], attacks: Sequence[str], methods: Sequence[str], budget: str, model: str = POCKET
) -> list[Cell]:
    """Every cell, concept by concept, and attack by attack."""
    return [Cell(*item, budget, model) for item in product(concepts, attacks, methods)]


def read(root: Path = ROOT) -> dict[Cell, dict[str, Any]]:
    """What is finished."""
    found = {}
    for path in sorted((root / CELLS).glob("*.json")):
        item = json.loads(path.read_text(encoding="utf-8"))
        cell = Cell(item["concept"], item["attack"], item["method"], item["budget"], item.get("model", POCKET))
        found[cell] = item
    return found


def control_key(cell: Cell, item: Mapping[str, Any]) -> tuple[Any, ...]:
    """What decides a cell's control: of an attack in several ways also the way that is measured."""
    mine = () if cell.attack in SHARED else (cell.method,)
    chosen = tuple(item["found"].get(name) for name in ("steps", "variant", "way"))
    return (cell.concept, cell.attack, cell.budget, cell.model, *chosen, *mine)


def references(cells: Mapping[Cell, Mapping[str, Any]]) -> dict[tuple[Any, ...], list[float]]:
    """Rates of the reference (value, low, high, pictures), by what decides them."""
    return {
        control_key(cell, item): item["control"] for cell, item in cells.items()
        if item["status"] == "ok" and item["against"] == REFERENCE_ROW and not drawn_again(cell, item)
    }  # fmt: skip


def drawn_again(cell: Cell, item: Mapping[str, Any]) -> bool:
    """Whether a cell's control only drew again what was found in the edited model: not the same attack."""
    return cell.attack in CHOOSING and not item.get("searched", False)
