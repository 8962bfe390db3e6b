"""What a longer search finds, for docs/attacks.md: means over concepts, curves of the attacks that learn, pictures.

    python -m tools.docs.attacks_longer [--pictures]

Means and curves come from the stored cells. ``--pictures`` cuts one picture of each cell out of the sheets that the
attacks left below ``runs/attacks`` (`tools.docs.attacks_table`).
"""

from __future__ import annotations

import argparse
import math
import sys
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from erase_plugins.artifacts.atomic import atomic_file
from erase_plugins.artifacts.places import STAMP
from erase_plugins.evaluation.attacks.inversion import PICTURES as SHEET
from erase_plugins.evaluation.chart import matplotlib_parts
from erase_plugins.evaluation.sheet import contact_sheet, corner
from erase_plugins.families.source import POCKET
from tools.docs.attacks_cells import INVERSION, LONGEST, ROOT, Cell, control_key, read, references
from tools.docs.attacks_table import WORK, attack_ids, method_ids, shown
from tools.docs.attacks_taught import RELEARN, against_reference, longest_taught, steps

BUDGET = "standard"
IMAGES = Path("docs/images")
PICTURES = IMAGES / "attacks-pictures.png"
#: attacks with a curve -> how their stages begin, the stage of the reference, and the figure
STAGES = {
    INVERSION: ("learned token, ", "reference", IMAGES / "attacks-curves.png"),
    RELEARN: ("relearned, ", "until back, reference", IMAGES / "attacks-relearn.png"),
}
#: lines of a sheet that the attack wrote: the base, the edited model with the token; behind it the controls
BASE, EDITED = 0, 2
#: panels in a line, at most
_COLUMNS = 3


def searched(root: Path = ROOT, budget: str = BUDGET, attack: str = INVERSION) -> dict[Cell, dict[str, Any]]:
    """Finished cells of an attack on methods with their defaults."""
    return {cell: item for cell, item in _every(root, budget, attack).items() if not is_design(cell)}


def is_design(cell: Cell) -> bool:
    """Whether its edit is a method with options, or two methods at once."""
    return ":" in cell.method or len(cell.edits) > 1


def _every(root: Path, budget: str = BUDGET, attack: str = "") -> dict[Cell, dict[str, Any]]:
    """Finished cells of an attack, of all if empty."""
    return {
        cell: item for cell, item in read(root).items()
        if (cell.budget, cell.model, item["status"]) == (budget, POCKET, "ok") and attack in ("", cell.attack)
    }  # fmt: skip


def curve(item: Mapping[str, Any], state: str, attack: str = INVERSION) -> list[tuple[int, float]]:
    """(steps, share of pictures) of the looks during training, and of the measurement at its end if there is one."""
    looks = item["curve"].get(STAGES[attack][0] + state, {})
    last = item["success"][0] if state == "edited" else item["controls"].get(f"control: {state} model")
    return [*sorted((int(step), share) for step, share in looks.items()),
            *([] if last is None else [(item["found"]["steps"], last)])]  # fmt: skip


def means(root: Path = ROOT) -> str:
    """Markdown: success over the concepts of each method, the control behind the comma; the spread in brackets."""
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    cells = _every(root)
    controls = references(cells)
    for cell, item in cells.items():
        pair = (item["success"][0], controls.get(control_key(cell, item), item["control"])[0])
        found.setdefault((cell.method, cell.attack), []).append(pair)
    most = max(map(len, found.values()), default=0)
    attacks = [name for name in attack_ids() if any(name == attack for _, attack in found)]
    methods = _methods(cells)
    rows = [f"| mean of {most} concepts | {' | '.join(attacks)} |", "|---" * (len(attacks) + 1) + "|"]
    rows += [
        f"| `{method}` | {' | '.join(_mean(found.get((method, name), []), most) for name in attacks)} |"
        for method in methods
    ]
    return "\n".join(rows)


def against_steps(root: Path = ROOT) -> str:
    """Markdown: the plain name, and the learned token after so many steps, each a mean over the concepts."""
    cells = searched(root)
    methods = _methods(cells)
    curves = {cell: curve(item, "edited") for cell, item in cells.items()}
    looks = sorted({step for points in curves.values() for step, _ in points})
    most = len({cell.concept for cell in cells})
    rows = [f"| mean of {most} concepts | by name | {' | '.join(f'{step:,} steps' for step in looks)} |",
            "|---" * (len(looks) + 2) + "|"]  # fmt: skip
    for method in methods:
        mine = [cell for cell in cells if cell.method == method]
        # a search that ended early has found what it ended with
        shares = [sum(_after(curves[cell], step) for cell in mine) / len(mine) for step in looks]
        named = sum(cells[cell]["plain"][0] for cell in mine) / len(mine)
        told = " | ".join(f"{share:.0%}" for share in (named, *shares))
        rows.append(f"| `{method}`{_fewer(len(mine), most)} | {told} |")
    return "\n".join(rows)


def designs(root: Path = ROOT) -> str:
    """Markdown: designs beside the methods that they are made of, a line for each concept and edit."""
    cells = _every(root)
    controls, taught = references(cells), longest_taught(cells)
    attacks = [name for name in attack_ids() if any(cell.attack == name for cell in cells)]
    rows = [f"| | | by name | {' | '.join(attacks)} |", "|---" * (len(attacks) + 3) + "|"]
    for concept, methods in compared(cells).items():
        for method in methods:
            row = [Cell(concept, attack, method, BUDGET) for attack in attacks]
            named = next(cells[cell]["plain"][0] for cell in row if cell in cells)
            told = " | ".join(shown(cell, cells.get(cell), controls) + steps(cell, cells, taught) for cell in row)
            rows.append(f"| {concept} | `{method}` | {named:.0%} | {told} |")
    return "\n".join(rows)


def compared(cells: Iterable[Cell]) -> dict[str, list[str]]:
    """By concept the methods that designs are made of, and the designs that an attack with a curve was tried on."""
    made = sorted({(cell.concept, cell.method) for cell in cells if is_design(cell) and cell.attack in STAGES})
    found = {}
    for concept in dict.fromkeys(concept for concept, _ in made):
        mine = [method for place, method in made if place == concept]
        parts = {edit.partition(":")[0] for method in mine for edit in Cell(concept, INVERSION, method).edits}
        found[concept] = [*(name for name in method_ids() if name in parts), *mine]
    return found


def until_back(root: Path = ROOT) -> str:
    """Markdown: steps of fine-tuning until each concept was back, against those of the reference.

    Below the methods stand the designs that were tried on every concept.
    """
    cells = _every(root, attack=RELEARN)
    concepts = {cell.concept for cell in cells}
    tried = Counter(cell.method for cell in cells if is_design(cell))
    whole = sorted(method for method, count in tried.items() if count == len(concepts))
    return against_reference(cells, [*method_ids(), *whole], BUDGET, POCKET)


def longest(root: Path = ROOT) -> str:
    """Markdown: the longest search, a column per concept, and the mean of those that were measured."""
    cells = searched(root, LONGEST)
    concepts = sorted({cell.concept for cell in cells})
    controls = references(cells)
    rows = [f"| method | {' | '.join(concepts)} | mean |", "|---" * (len(concepts) + 2) + "|"]
    for method in _methods(cells):
        mine = {cell.concept: (cell, item) for cell, item in cells.items() if cell.method == method}
        told = [shown(*mine[concept], controls) if concept in mine else "-" for concept in concepts]
        pairs = [(item["success"][0], item["control"][0]) for _, item in mine.values()]
        rows.append(f"| `{method}` | {' | '.join(told)} | {_mean(pairs, len(concepts))} |")
    return "\n".join(rows)


def _after(points: Sequence[tuple[int, float]], step: int) -> float:
    return points[max(bisect_right([done for done, _ in points], step) - 1, 0)][1]


def _mean(pairs: Sequence[tuple[float, float]], most: int) -> str:
    if not pairs:
        return "-"
    own, control = ([100 * share for share in side] for side in zip(*pairs, strict=True))
    spread = f"{min(own):.0f} to {max(own):.0f}"
    return f"{sum(own) / len(own):.0f}% ({spread}), {sum(control) / len(control):.0f}%{_fewer(len(pairs), most)}"


def _fewer(count: int, most: int) -> str:
    return f"; {count} of them" if count < most else ""


def _methods(cells: Iterable[Cell]) -> list[str]:
    """Of these cells, in the order of all tables."""
    found = {cell.method for cell in cells}
    return [name for name in method_ids() if name in found]


def draw_curves(root: Path = ROOT, attack: str = INVERSION, design: bool = False) -> Path:
    """One panel per concept: success against training steps, the reference in grey.

    Args:
        root: of the project.
        attack: one that learns.
        design: the designs and what they are made of, instead of the methods.
    """
    figure_class, canvas = matplotlib_parts()
    beginning, reference, place = STAGES[attack]
    if design:
        place = place.with_stem(f"{place.stem}-designs")
        every = _every(root)
        chosen = compared(every)
        methods = list(dict.fromkeys(name for names in chosen.values() for name in names))
        cells = {cell: item for cell, item in every.items()
                 if cell.attack == attack and cell.method in chosen.get(cell.concept, ())}  # fmt: skip
    else:
        cells = searched(root, attack=attack)
        methods = _methods(cells)
    concepts = list(dict.fromkeys(cell.concept for cell in cells))
    columns = min(_COLUMNS, max(math.ceil(len(concepts) ** 0.5), 1))
    lines = max(math.ceil(len(concepts) / columns), 1)
    figure = figure_class(figsize=(10, 2.7 * lines + 0.5), layout="constrained")
    canvas(figure)
    panels = list(figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).flat)
    for panel, concept in zip(panels, concepts, strict=False):
        panel.set_title(concept, fontsize=10)
        mine = {cell.method: item for cell, item in cells.items() if cell.concept == concept}
        taught = [points for item in mine.values() if beginning + reference in item["curve"]
                  for points in (curve(item, reference, attack),)]  # fmt: skip
        if taught:
            _line(panel, max(taught, key=lambda points: points[-1][0]), "never saw it", "#7f8c8d", "--")
        for number, method in enumerate(methods):
            if method in mine:
                _line(panel, curve(mine[method], "edited", attack), method, f"C{number}", "-")
    for panel in panels[len(concepts) :]:
        panel.set_axis_off()
    panels[0].set_ylabel("share of pictures that show it", fontsize=9)
    panels[columns * (lines - 1)].set_xlabel("training steps", fontsize=9)
    handles = {line.get_label(): line for axes in figure.axes for line in axes.get_lines()}
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=min(len(handles), 7), fontsize=8)
    with atomic_file(root / place) as work:
        figure.savefig(work, format="png", dpi=110, metadata={"Software": STAMP})
    return root / place


def _line(panel: Any, points: Sequence[tuple[int, float]], label: str, colour: str, style: str) -> None:
    panel.plot(*zip(*points, strict=True), style, color=colour, label=label, marker=".", linewidth=1.3)
    panel.set_ylim(-0.03, 1.03)


def draw_pictures(root: Path = ROOT) -> Path:
    """A line per method, a picture per concept: those concepts of which every method left its sheet.

    Raises:
        FileNotFoundError: there is none.
    """
    cells = searched(root)
    sheets = {cell: root / WORK / "reports" / cell.key / SHEET for cell in cells}
    left = [cell for cell in cells if sheets[cell].is_file()]
    methods = _methods(left)
    concepts = {cell.concept: [other for other in left if other.concept == cell.concept] for cell in left}
    concepts = {name: mine for name, mine in concepts.items() if len(mine) == len(methods)}
    if not concepts:
        raise FileNotFoundError(f"no concept has a sheet of every method below {root / WORK}")
    # the controls stand on every sheet; those that were trained longest are shown
    longest = [max(mine, key=lambda cell: int(cells[cell]["found"]["steps"])) for mine in concepts.values()]
    rows = [("base, by the name", [picture for cell in longest for picture in cut(sheets[cell], BASE)])]
    for method in methods:
        own = [sheets[cell] for mine in concepts.values() for cell in mine if cell.method == method]
        rows.append((method, [picture for sheet in own for picture in cut(sheet, EDITED)]))
    last = [picture for cell in longest for picture in cut(sheets[cell], EDITED + len(cells[cell]["controls"]))]
    rows.append(("never saw it", last))
    return contact_sheet(
        rows,
        root / PICTURES,
        columns=[text for name in concepts for text in (name, "")],
        title="What a learned token draws",
    )


def cut(sheet: Path, line: int) -> list[Any]:
    """The first two pictures (3, height, width) in 0..1 of a line of a sheet with a title."""
    import numpy as np
    import torch
    from PIL import Image

    with Image.open(sheet) as picture:
        pixels = torch.from_numpy(np.asarray(picture.convert("RGB")) / 255).permute(2, 0, 1).float()
    return [pixels[:, top : top + size, left : left + size] for left, top, size in (corner(line, 0), corner(line, 1))]


def main() -> None:
    """Reads the command line and draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", action="store_true")
    pictures = parser.parse_args().pictures
    made = [draw_curves(attack=name, design=design) for name in STAGES for design in (False, True)]
    made += [draw_pictures()] if pictures else []
    sys.stderr.writelines(f"written: {path.relative_to(ROOT)}\n" for path in made)


if __name__ == "__main__":
    main()
