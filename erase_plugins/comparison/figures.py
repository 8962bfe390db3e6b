"""Figures of a comparison: erasure against what is kept, and pictures of every method side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from erase_plugins.comparison.cells import PICTURES, SHOWN
from erase_plugins.errors import MissingExtra

PARETO, SHEET = "pareto.png", "contact_sheet.png"
#: as many as share no factor with the ten colours, so that seventy methods differ
_MARKERS = "os^DvPX"


def on_the_front(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Names that no other point beats in both numbers (less of the target left, less of the rest lost)."""
    return [
        name
        for name, (left, lost) in points.items()
        if not any(
            other != name and a <= left and b <= lost and (a, b) != (left, lost) for other, (a, b) in points.items()
        )
    ]


def pareto(summary: Mapping[str, Any], path: Path) -> Path:
    """Remaining target and synonym rates against lost points of what is kept; the front is joined by a line.

    Of several kinds of concepts, the one with the most is shown.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra("the Pareto plot", "plots") from error
    from erase_plugins.artifacts.atomic import atomic_file
    from erase_plugins.artifacts.places import STAMP

    sizes = {
        kind: max((row["concepts"] for row in part["rows"].values()), default=0)
        for kind, part in summary["kinds"].items()
    }
    kind = max(sizes, key=lambda name: sizes[name])
    rows = {label: row for label, row in summary["kinds"][kind]["rows"].items() if row["concepts"]}
    figure = Figure(figsize=(11, 5), layout="constrained")
    FigureCanvasAgg(figure)
    for place, (metric, title) in enumerate((("target_rate", "target"), ("synonym_rate", "synonyms")), 1):
        axes = figure.add_subplot(1, 2, place)
        points = {}
        for number, (label, row) in enumerate(rows.items()):
            if metric not in row["rates"]:
                continue
            value, low, high = (100 * part for part in row["rates"][metric])
            mean, least, most = (-part for part in row["kept_change_points"])
            points[label] = (value, mean)
            across, along = [[abs(mean - most)], [abs(least - mean)]], [[value - low], [high - value]]
            axes.errorbar(
                mean, value, xerr=across, yerr=along, fmt=_MARKERS[number % len(_MARKERS)], capsize=2, label=label
            )
        front = sorted((points[name][1], points[name][0]) for name in on_the_front(points))
        axes.plot(*zip(*front, strict=True), color="#999", linewidth=1, zorder=0) if front else None
        axes.set_xlabel("lost of what is kept (points)")
        axes.set_ylabel(f"{title} still drawn (%)")
        axes.set_title(f"{title} ({kind}s): lower left is better", fontsize=10)
        axes.grid(alpha=0.3)
    if rows:
        axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    with atomic_file(path) as work:
        figure.savefig(work, format="png", dpi=120, metadata={"Software": STAMP})
    return path


def sheet(
    results: Sequence[Mapping[str, Any]], places: Mapping[str, Path], path: Path, columns: int = 12
) -> Path | None:
    """Methods times prompts: the base model on top, then every method; for each concept the target and a neighbour.

    Args:
        results: of cells.
        places: key of a cell -> its folder.
        path: PNG to write.
        columns: most concepts shown.

    Returns:
        The path; None if there is no picture to show.
    """
    from erase_plugins.evaluation.sheet import contact_sheet

    strips = {
        (item["label"], item["cell"]["concept"]): _cut(places[item["key"]] / PICTURES)
        for item in results
        if item["status"] == "ok" and (places[item["key"]] / PICTURES).is_file()
    }
    counts = Counter(concept for _, concept in strips)  # results of earlier comparisons have no pictures
    concepts = [concept for concept, count in counts.items() if 2 * count >= max(counts.values())][:columns]
    drawn = {label for label, _ in strips}
    labels = [label for label in dict.fromkeys(item["label"] for item in results) if label in drawn]
    if not strips:
        return None
    some = {concept: next(strip for (_, name), strip in strips.items() if name == concept) for concept in concepts}
    blank = next(iter(some.values()))[0] * 0 + 1
    rows = [("base model", [some[concept][index] for concept in concepts for index in (0, 2)])]
    for label in labels:
        found = [strips.get((label, concept)) for concept in concepts]
        rows.append((label, [strip[index] if strip else blank for strip in found for index in (1, 3)]))
    headings = [text for concept in concepts for text in (concept, "neighbour")]
    return contact_sheet(rows, path, columns=headings, title="target and a neighbour of each concept", size=72)


def _cut(path: Path) -> list[Any]:
    """Pictures of a strip, (3, height, width) in 0..1."""
    import numpy as np
    import torch
    from PIL import Image

    with Image.open(path) as image:
        data = torch.from_numpy(np.asarray(image.convert("RGB")).copy()).permute(2, 0, 1).float() / 255
    return list(data.chunk(len(SHOWN), dim=2))
