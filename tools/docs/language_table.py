"""Writes docs/results-language.md: methods that make pocket-lm forget twelve people, seed by seed, and two figures.

``python -m tools.docs.language_table`` measures what is missing in docs/results/language.json and writes the page from
what is there; stopped, it goes on where it was. ``--page`` measures nothing. ``--held-out FOLDER`` measures twelve
other people against a reference trained without those (``python -m tools.pocket_language --only held-out``) and writes
nothing: it is what defaults are chosen on. ``--draw FOLDER`` asks another training of the reference
(``python -m tools.pocket_language --only pocket-lm-retained --draw 1``).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import Any

from erase_plugins.artifacts.atomic import atomic_file
from tools.docs.language_draws import Cell, drawn
from tools.docs.language_page import DOCS, METHODS, page, reached

CELLS, PAGE = DOCS / "results" / "language.json", DOCS / "results-language.md"
DRAWS = DOCS / "results" / "language-references.json"
FIGURES = {"truth": DOCS / "images" / "language-truth.png", "against": DOCS / "images" / "language-utility.png"}


def measure(
    method: str, seed: int, whom: Sequence[str] = ("withheld",), kind: str = "dataset", reference: str = "auto"
) -> dict[str, Any]:
    """One run with the defaults, and everything that the suite says of it."""
    import erase_plugins as ep

    made = ep.erase("pocket-lm", list(whom), method, kind=kind, seed=seed)
    report = ep.evaluate("pocket-lm", made, "language", seed=0, settings={"reference": reference})
    table: dict[str, dict[str, float]] = {}
    for row in report.rows:
        table.setdefault(row.subject, {})[row.metric] = row.value
    numbers = made.manifest.extra["numbers"]
    return {
        "method": method, "seed": seed, "steps": int(numbers.get("stopped_after", 0)) or made.manifest.options["steps"],
        "stopped": "stopped_after" in numbers, "table": table, "relearn": report.details["relearn"],
        "values": report.details["values"], "warnings": [*made.manifest.warnings, *report.warnings],
    }  # fmt: skip


def draw(cells: Sequence[Cell]) -> None:
    """Both figures."""
    from erase_plugins.evaluation.language.figures import against, distributions

    first = {cell["method"]: cell for cell in reversed(cells)}
    ratios = {name: cells[0]["values"][name]["forget_ratio"] for name in ("base", "reference")}
    ratios |= {name: first[name]["values"]["edited"]["forget_ratio"] for name in METHODS if name in first}
    points = {name: [_point(cells[0]["table"][name])] for name in ("base", "reference")}
    for name in METHODS:
        if mine := [_point(cell["table"]["edited"]) for cell in cells if cell["method"] == name]:
            points[name] = mine
    for key, made in (("truth", lambda path: distributions(ratios, path)), ("against", lambda p: against(points, p))):
        with atomic_file(FIGURES[key]) as work:
            made(work)


def _point(table: Mapping[str, float]) -> tuple[float, float]:
    return table["forget_probability"], table["utility"]


def _cells() -> list[dict[str, Any]]:
    """What was measured."""
    found: list[dict[str, Any]] = json.loads(CELLS.read_text(encoding="utf-8")) if CELLS.is_file() else []
    return found


def main(arguments: list[str] | None = None) -> None:
    """Measures what is missing and writes the page."""
    parser = argparse.ArgumentParser(prog="python -m tools.docs.language_table", description=main.__doc__)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--page", action="store_true", help="measure nothing")
    parser.add_argument("--held-out", metavar="FOLDER", help="reference without the twelve people of the defaults")
    parser.add_argument("--draw", metavar="FOLDER", help="another training of the reference, added to the page")
    options = parser.parse_args(arguments)
    draws = json.loads(DRAWS.read_text(encoding="utf-8")) if DRAWS.is_file() else []
    if options.draw:
        draws.append(drawn(options.draw))
        with atomic_file(DRAWS) as work:
            work.write_text(json.dumps(draws) + "\n", encoding="utf-8")
    if options.held_out:
        from tools.pocket_people import HELD_OUT

        for method in options.methods:
            cell = measure(method, 0, [f"person {number}" for number in HELD_OUT], "person", options.held_out)
            print(method, reached(cell), cell["table"]["edited"], flush=True)
        return
    for seed in range(0 if options.page or options.draw else options.seeds):
        for method in options.methods:
            if (method, seed) not in {(cell["method"], cell["seed"]) for cell in _cells()}:
                cell = measure(method, seed)
                with atomic_file(CELLS) as work:  # read again: another process may have added some
                    work.write_text(json.dumps([*_cells(), cell]) + "\n", encoding="utf-8")
                print(method, seed, cell["steps"], reached(cell), flush=True)
    cells = sorted(_cells(), key=lambda cell: (METHODS.index(cell["method"]), cell["seed"]))
    PAGE.write_text(page(cells, draws), encoding="utf-8")
    draw(cells)


if __name__ == "__main__":
    main()
