"""Methods against attacks on the embedded model: the cells behind the table of docs/attacks.md, one JSON file each.

    python -m tools.docs.attacks_table [--model pocket-flow] [--concepts owl,pizza] [--attacks ...] [--methods ...]

The most telling cells come first; a killed run goes on when it is called again, finished cells are kept, and those that
were refused or failed are tried again. Erased models and the files of each attack stay below ``runs/attacks``. Where a
model that never saw the concept is at hand (`tools.pocket.reference`), it is the control, and cells without it are
made anew, unless another method's cell has the same control. How long a control needs to be taught (`relearn`) no edit
decides: one cell of a concept and a budget in which it was trained for itself tells it for all of them. Older cells of
attacks that choose by what they see (`CHOOSING`), whose control only drew again what was found in the edited model,
take the control of a newer one.
`python -m tools.docs` writes the table anew from whatever cells there are.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from erase_plugins.families.source import POCKET, POCKET_NATURAL
from tools.docs.attacks_cells import (
    CELLS,
    CHOOSING,
    INVERSION,
    LONGEST,
    REFERENCE_ROW,
    ROOT,
    Cell,
    control_key,
    drawn_again,
    in_files,
    plan,
    read,
    references,
)
from tools.docs.attacks_taught import RELEARN, is_taught, longest_taught, steps
from tools.docs.attacks_variants import VARIANTS, without

WORK = Path("runs/attacks")
#: what is asked first tells most; what is not named here follows
ATTACKS = (
    "concept-inversion", "relearn", "unlearndiffatk", "ring-a-bell", "noise", "weights", "paraphrase", "backdoor",
    "readable", "edit", "described", "probe",
)  # fmt: skip
METHODS = ("uce", "esd", "ace", "receler", "advunlearn", "stereo")
#: by model: one that never saw some concepts, which ``quality.json`` names, and the share of the kept ones it must draw
REFERENCES = {POCKET: Path("tests/pocket/reference"), POCKET_NATURAL: Path("tests/pocket/reference_natural")}
LEAST_KEPT = 0.85
#: options where the defaults are not what is asked, by attack or by attack and budget: the backdoor is older than the
#: erasure, and the longest search has four rows
SETTINGS: dict[str | tuple[str, str], dict[str, Any]] = {
    "backdoor": {"again": True},
    (INVERSION, LONGEST): {"rows": 4},
}
#: facts of a found input that are told elsewhere in a cell, or nowhere
_KNOWN = ("attack", "model", "artifacts", "erased", "strength", "sampler_steps", "guidance", "success_rate", "file")
_LONGEST = 300


def known(names: Sequence[str], first: Sequence[str]) -> list[str]:
    """``names`` with those of ``first`` in front."""
    return [*(name for name in first if name in names), *(name for name in names if name not in first)]


def attack_ids() -> list[str]:
    """Built-in attacks, most telling first."""
    from erase_plugins.manager import get_manager

    found = [entry.item.id for entry in get_manager().evaluators("attack") if entry.package == "erase-plugins"]
    return known(found, ATTACKS)


def method_ids() -> list[str]:
    """Built-in methods for text-to-image models, most telling first."""
    from erase_plugins.manager import get_manager

    entries = [entry for entry in get_manager().methods() if entry.package == "erase-plugins"]
    return known([entry.item.id for entry in entries if {"denoiser", "text"} <= entry.item.needs
                  and entry.item.produces], METHODS)  # fmt: skip


def reference_of(cell: Cell, root: Path = ROOT) -> dict[str, str]:
    """The setting that names a model which never saw the cell's concept; empty if there is none, or no use for it."""
    from erase_plugins.evaluation.attack_suite import with_reference
    from erase_plugins.families.assembled import whole
    from erase_plugins.manager import get_manager

    folder = root / REFERENCES.get(cell.model, Path("none"))
    told = folder / "quality.json"
    quality = json.loads(told.read_text(encoding="utf-8")) if told.is_file() else {}
    without = quality["without"] if quality and quality["kept"]["rate"] >= LEAST_KEPT else ()
    return with_reference(
        get_manager().evaluator(cell.attack, "attack"), str(whole(folder)) if cell.concept in without else ""
    )


def finished(cell: Cell, made: Mapping[Cell, Mapping[str, Any]], root: Path = ROOT) -> bool:
    """Whether a cell need not be made anew."""
    item = made.get(cell, {"status": "missing"})
    if item["status"] != "ok":
        return False
    known_control = control_key(cell, item) in references(made) and (cell.attack != RELEARN or is_taught(cell, made))
    return known_control or not (reference_of(cell, root) or drawn_again(cell, item))


def run(cells: Sequence[Cell], root: Path = ROOT) -> None:
    """Works off what is missing; all cells are of one model."""
    import erase_plugins as ep
    from erase_plugins.artifacts.atomic import atomic_file
    from erase_plugins.artifacts.locks import locked
    from erase_plugins.errors import EraseError

    (root / CELLS).mkdir(parents=True, exist_ok=True)
    with locked(root / WORK / "table"):
        made = read(root)
        todo = [cell for cell in cells if not finished(cell, made, root)]
        pipe = ep.load(todo[0].model) if todo else None
        for number, cell in enumerate(todo):
            if finished(cell, made, root):  # the control of a cell before it is this one's
                continue
            started = time.perf_counter()
            asked = {"concept": cell.concept, "attack": cell.attack, "method": cell.method, "budget": cell.budget}
            asked |= {"model": cell.model} if cell.on else {}
            try:
                found = {**asked, "status": "ok", **measured(cell, pipe, root)}
            except EraseError as error:
                found = {**asked, "status": "refused", "reason": str(error)}
            except Exception as error:  # one cell must not end the night's work
                found = {**asked, "status": "failed", "reason": f"{type(error).__name__}: {error}"}
            with atomic_file(root / CELLS / f"{cell.key}.json") as work:
                work.write_text(json.dumps({"schema": 1, **found}, sort_keys=True) + "\n", encoding="utf-8")
            made[cell] = found
            seconds = time.perf_counter() - started
            sys.stderr.write(f"{number + 1}/{len(todo)} {cell.key}: {found['status']}, {seconds:.0f} s\n")
            sys.stderr.flush()


def measured(cell: Cell, pipe: Any, root: Path) -> dict[str, Any]:
    """Erases, or takes what was erased before, and attacks."""
    import erase_plugins as ep
    from erase_plugins.evaluation.attack_summary import plain_name

    work, places = root / WORK, []
    settings = {
        **SETTINGS.get(cell.attack, {}), **SETTINGS.get((cell.attack, cell.budget), {}), **reference_of(cell, root),
    }  # fmt: skip
    for edit in cell.edits:
        places.append(work / "erased" / in_files(f"{cell.concept}-{edit}{cell.on}"))
        if not (places[-1] / "erase.json").is_file():
            method, _, more = edit.partition(":")
            options = dict(item.split("=", 1) for item in more.split(",") if item)
            ep.erase(pipe, cell.concept, method, options=options, out=places[-1], force=True, resume=True)
    report = ep.attack(
        pipe, places, cell.attack, budget=cell.budget, settings=settings, force=True, out=work / "reports" / cell.key,
    )  # fmt: skip
    plain = plain_name(report)
    rates = {"success": report.success, "control": report.control, **({"plain": plain} if plain else {})}
    told = {name: value for name, value in report.found.items() if name not in _KNOWN}
    return {
        **{name: [row.value, row.low, row.high, row.n] for name, row in rates.items()},
        **({"searched": True} if cell.attack in CHOOSING and "control" in report.details else {}),
        **({"tried": list(report.details["tried"])} if cell.attack in VARIANTS else {}),
        "by": report.success.subject, "against": report.control.subject,
        "controls": {row.subject: row.value for row in report.rows if row.subject.startswith("control: ")},
        "found": {name: value for name, value in told.items() if len(json.dumps(value)) <= _LONGEST},
        "curve": report.details.get("looks", {}), "queries": report.queries, "passes": report.passes,
        "seconds": report.seconds, "judge_hash": report.judge_hash, "version": ep.__version__,
    }  # fmt: skip


def tables(root: Path = ROOT, budget: str = "quick", model: str = POCKET, guards: bool = False) -> str:
    """Markdown: one table per concept, a line per method (or per guard), a column per attack."""
    edits, parts = method_ids(), []
    cells = {cell: item for cell, item in read(root).items() if (cell.budget, cell.model) == (budget, model)}
    controls, taught = references(cells), longest_taught(cells)
    cells = {cell: item for cell, item in cells.items() if (cell.edits[0].partition(":")[0] in edits) != guards}
    for concept in dict.fromkeys(cell.concept for cell in cells):
        mine = [cell for cell in cells if cell.concept == concept]
        attacks = [name for name in attack_ids() if any(cell.attack == name for cell in mine)]
        methods = known(list(dict.fromkeys(cell.method for cell in mine)), edits)
        rows = [f"**{concept}**", "", f"| method | {' | '.join(attacks)} |", "|---" * (len(attacks) + 1) + "|"]
        for method in methods:
            row = (Cell(concept, attack, method, budget, model) for attack in attacks)
            told = " | ".join(shown(cell, cells.get(cell), controls) + steps(cell, cells, taught) for cell in row)
            rows.append(f"| `{method}` | {told} |")
        notes = [note for name in attacks if (note := without(name, [cells[it] for it in mine if it.attack == name]))]
        parts.append("\n".join([*rows, *(["", *notes] if notes else [])]))
    return "\n\n".join(parts) or "No cell is finished."


def shown(cell: Cell, item: Mapping[str, Any] | None, controls: Mapping[tuple[Any, ...], list[float]]) -> str:
    """A cell of a table: success with its interval, bold where it lies above the control, and the control."""
    if item is None:
        return "-"
    if item["status"] != "ok":
        return "no"
    (value, low, high, _), reference = item["success"], controls.get(control_key(cell, item))
    control = reference or item["control"]
    text = f"{value:.0%} [{100 * low:.0f}..{100 * high:.0f}]"
    beyond = low > control[2]
    kind = " reference" if reference or item["against"] == REFERENCE_ROW else ""
    return f"{f'**{text}**' if beyond else text}, {control[0]:.0%}{kind}"


def comes_back(method: str, root: Path = ROOT) -> str:
    """For the table of methods: how often the learned token brings the concept back, the worst concept and budget.

    The longest search is left out: not every method went through it.
    """
    found = [
        item["success"][0] for cell, item in read(root).items()
        if (cell.method, cell.attack, cell.model, item["status"]) == (method, INVERSION, POCKET, "ok")
        and cell.budget != LONGEST
    ]  # fmt: skip
    return f"{max(found):.0%}" if found else "-"


def main() -> None:
    """Reads the command line and runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=POCKET)
    parser.add_argument("--concepts", default="owl,pizza", help="one after the other")
    parser.add_argument("--attacks", default="", help="ids with commas; all if empty")
    parser.add_argument("--methods", default="", help="ids with commas; all for text-to-image models if empty")
    parser.add_argument("--budget", default="quick")
    given = parser.parse_args()
    ids = (given.attacks.split(",") if given.attacks else attack_ids(),
           given.methods.split(",") if given.methods else method_ids())  # fmt: skip
    run(plan(given.concepts.split(","), *ids, given.budget, given.model))


if __name__ == "__main__":
    main()
