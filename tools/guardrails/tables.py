"""What guards let through of the prompts of the tables in docs/results.md: a row of each table."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from erase_plugins.artifacts.atomic import atomic_file
from erase_plugins.artifacts.keyword_guard import keyword_guard

#: file beside the tables, and the comparisons (file, kind) of which it holds what the embedding guard lets through
GUARDS = "guards.json"
TABLES = (("comparison.json", "object"), ("comparison.json", "style"))
#: a name to whether a prompt is refused
Guard = Callable[[str], Callable[[str], bool]]


def cells_of(summary: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Names of a kind that a comparison erased, and pictures of a set."""
    cells = [cell["cell"] for cell in summary["cells"] if cell["cell"]["kind"] == kind]
    return {"kind": kind, "names": sorted({cell["concept"] for cell in cells}), "images": cells[0]["images"]}


def by_keyword(name: str, key: bytes = b"") -> Callable[[str], bool]:
    """The keyword guard of a name, without synonyms."""
    guard = keyword_guard("subject", [name], key=key)
    return lambda text: guard.check(text).hit


def shares(asked: Mapping[str, Any], guard: Guard) -> list[float]:
    """Share of the prompts of every set that pass, over all names."""
    from erase_plugins.evaluation.prompts import SETS, quick_prompts
    from erase_plugins.pocket.world import pocket_world

    world = pocket_world()
    axes = {"concept": [item.name for item in world.concepts], "style": list(world.styles)}
    judge: Any = SimpleNamespace(id="pocket", axes=axes, world=lambda: world)
    passed: dict[str, list[bool]] = {name: [] for name in SETS}
    for name in asked["names"]:
        refused = guard(name)
        for part, prompts in quick_prompts(judge, [name], asked["images"], 0).items():
            passed[part] += [not refused(prompt.text) for prompt in prompts]
    return [sum(values) / max(1, len(values)) for values in passed.values()]


def write(root: Path, guard: Callable[[str, str], Callable[[str], bool]]) -> None:
    """Asks the embedding guard, which needs a text encoder, about the prompts of `TABLES`.

    Args:
        root: of the repository.
        guard: name and kind to whether a prompt is refused.
    """
    folder, told = root / "docs" / "results", []
    for file, kind in TABLES:
        asked = cells_of(json.loads((folder / file).read_text(encoding="utf-8")), kind)
        told.append({"asked": asked, "passed": shares(asked, lambda name, kind=kind: guard(name, kind))})  # type: ignore[misc]
    with atomic_file(folder / GUARDS) as work:
        work.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
