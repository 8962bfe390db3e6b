"""Figures for docs/attacks.md: curves of a longer search for a token, and pictures that it brings back.

    python -m tools.docs.attacks_figures [--pictures]

The curves come from the stored cells. ``--pictures`` cuts one picture of each cell out of the sheets that the attacks
wrote below ``runs/attacks`` (`tools.docs.attacks_table`), and is refused where one is missing.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from erase_plugins.artifacts.atomic import atomic_file
from erase_plugins.artifacts.places import STAMP
from erase_plugins.evaluation.attacks.inversion import PICTURES as SHEET
from erase_plugins.evaluation.chart import matplotlib_parts
from erase_plugins.evaluation.sheet import contact_sheet, corner
from tools.docs.attacks_table import INVERSION, POCKET, ROOT, WORK, Cell, known, method_ids, read

IMAGES = Path("docs/images")
CURVES, PICTURES = IMAGES / "attacks-curves.png", IMAGES / "attacks-pictures.png"
#: lines of a sheet that the attack wrote: the base, the edited model with the token, the reference with it
BASE, EDITED, REFERENCE = 0, 2, 4
_COLUMNS = 3


def searched(root: Path = ROOT, budget: str = "standard") -> dict[Cell, dict[str, Any]]:
    """Finished cells of the learned token."""
    return {
        cell: item for cell, item in read(root).items()
        if (cell.attack, cell.budget, cell.model, item["status"]) == (INVERSION, budget, POCKET, "ok")
    }  # fmt: skip


def curve(item: Mapping[str, Any], state: str) -> list[tuple[int, float]]:
    """(steps, share of pictures) of the looks during the training, and of the measurement at its end."""
    looks = sorted((int(step), share) for step, share in item["curve"].get(f"learned token, {state}", {}).items())
    last = item["success"][0] if state == "edited" else item["controls"][f"control: {state} model"]
    return [*looks, (item["found"]["steps"], last)]


def draw_curves(root: Path = ROOT) -> Path:
    """One panel per concept: success against training steps, the reference in grey."""
    figure_class, canvas = matplotlib_parts()
    cells = searched(root)
    concepts = list(dict.fromkeys(cell.concept for cell in cells))
    methods = known(list(dict.fromkeys(cell.method for cell in cells)), method_ids())
    lines = math.ceil(len(concepts) / _COLUMNS)
    figure = figure_class(figsize=(10, 2.7 * lines + 0.5), layout="constrained")
    canvas(figure)
    panels = list(figure.subplots(lines, _COLUMNS, sharex=True, sharey=True, squeeze=False).flat)
    for panel, concept in zip(panels, concepts, strict=False):
        panel.set_title(concept, fontsize=10)
        mine = {cell.method: item for cell, item in cells.items() if cell.concept == concept}
        longest = max(mine.values(), key=lambda item: int(item["found"]["steps"]))
        _line(panel, curve(longest, "reference"), "never saw it", "#7f8c8d", "--")
        for number, method in enumerate(methods):
            if method in mine:
                _line(panel, curve(mine[method], "edited"), method, f"C{number}", "-")
    for panel in panels[len(concepts) :]:
        panel.set_axis_off()
    panels[0].set_ylabel("share of pictures that show it", fontsize=9)
    panels[0].set_xlabel("training steps of the token", fontsize=9)
    handles = {line.get_label(): line for axes in figure.axes for line in axes.get_lines()}
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=len(handles), fontsize=8)
    with atomic_file(root / CURVES) as work:
        figure.savefig(work, format="png", dpi=110, metadata={"Software": STAMP})
    return root / CURVES


def _line(panel: Any, points: Sequence[tuple[int, float]], label: str, colour: str, style: str) -> None:
    panel.plot(*zip(*points, strict=True), style, color=colour, label=label, marker=".", linewidth=1.3)
    panel.set_ylim(-0.03, 1.03)


def draw_pictures(root: Path = ROOT) -> Path:
    """A line per method, a picture per concept, cut out of the sheets of the attacks.

    Raises:
        FileNotFoundError: a cell without a sheet below ``runs/attacks``.
    """
    cells = searched(root)
    concepts = list(dict.fromkeys(cell.concept for cell in cells))
    methods = known(list(dict.fromkeys(cell.method for cell in cells)), method_ids())
    sheets = {(cell.concept, cell.method): root / WORK / "reports" / cell.key / SHEET for cell in cells}
    longest = {cell.concept: cell.method for cell in sorted(cells, key=lambda cell: int(cells[cell]["found"]["steps"]))}
    rows = [("base, by the name", [cut(sheets[concept, longest[concept]], BASE) for concept in concepts])]
    rows += [
        (method, [cut(sheets[concept, method], EDITED) for concept in concepts if (concept, method) in sheets])
        for method in methods
    ]
    rows.append(("never saw it", [cut(sheets[concept, longest[concept]], REFERENCE) for concept in concepts]))
    return contact_sheet(rows, root / PICTURES, columns=concepts, title="What a learned token draws, 1,000 steps")


def cut(sheet: Path, line: int) -> Any:
    """The first picture (3, height, width) in 0..1 of a line of a sheet with a title."""
    import numpy as np
    import torch
    from PIL import Image

    left, top, size = corner(line)
    with Image.open(sheet) as picture:
        part = np.asarray(picture.convert("RGB").crop((left, top, left + size, top + size)))
    return torch.from_numpy(part / 255).permute(2, 0, 1).float()


def main() -> None:
    """Reads the command line and draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", action="store_true")
    made = [draw_curves(), *([draw_pictures()] if parser.parse_args().pictures else [])]
    sys.stderr.writelines(f"written: {path.relative_to(ROOT)}\n" for path in made)


if __name__ == "__main__":
    main()
