"""The trade-off for people: a table and a picture of all trials, with the front and the point that was taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from erase_plugins.artifacts.atomic import atomic_file
from erase_plugins.artifacts.places import STAMP
from erase_plugins.autotune.trials import Row
from erase_plugins.errors import MissingExtra

_MARKERS = "os^DvPX"
#: kinds of prompt that a judge can be shown
_KINDS = ("name", "synonyms", "descriptions")


def cost_text(cost: float, unit: str) -> str:
    """The third number for people."""
    return f"{cost / 1e3:.0f} kB" if unit == "size" else f"{cost:.1f} s"


def not_measured(base: Mapping[str, float]) -> str:
    """A sentence about kinds of prompt that say nothing here; "" where there are none, or no judge."""
    absent = [name for name in _KINDS if name not in base]
    if not absent or len(absent) == len(_KINDS):
        return ""
    return f"not measured: {', '.join(absent)} (none are known, or the base does not draw the concept from them)"


def markdown(title: str, front: Sequence[Row], taken: Row, base: Mapping[str, float], unit: str, told: str) -> str:
    """The front as a table."""
    parts, unmeasured = list(base), not_measured(base)
    absent = f" {unmeasured.capitalize()}." if unmeasured else ""
    lines = [
        "# Methods compared",  # the stamp by which the file is known as ours
        "",
        f"{title}. {told}",
        "",
        "`left` is the sum of the columns behind it over that of the base, 0 is gone. `change` is the mean squared "
        "distance of the denoiser's predictions on retained prompts from the base's, over that of these prompts to the "
        "empty prompt; 0 is the base." + absent,
        "",
        f"| trial | settings | left | {' | '.join(parts)} | change | {unit} |",
        "|---" * (5 + len(parts)) + "|",
        "| - | base model | 1.000 | "
        + " | ".join(f"{base[name]:.3f}" for name in parts) + " | 0.000 | - |",
    ]  # fmt: skip
    for row in sorted(front, key=lambda item: (item.left, item.change)):
        mark = " (taken)" if row.number == taken.number else ""
        own = " | ".join(f"{row.parts.get(name, float('nan')):.3f}" for name in parts)
        label = row.label.replace("|", "\\|")
        numbers = [f"{row.left:.3f}", own, f"{row.change:.3f}", cost_text(row.cost, unit)]
        lines.append(f"| {row.number}{mark} | {label} | {' | '.join(numbers)} |")
    return "\n".join(lines) + "\n"


def picture(title: str, rows: Sequence[Row], front: Sequence[Row], taken: Row, path: Path) -> Path:
    """All trials, what is left against what has changed; the front is numbered and joined, the point taken is ringed.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra("the picture of the front", "plots") from error
    figure: Any = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(1, 1, 1)
    names = list(dict.fromkeys(row.settings.method for row in rows))
    on = {row.number for row in front}
    for place, name in enumerate(names):
        own = [row for row in rows if row.settings.method == name]
        sizes = [60 if row.number in on else 18 for row in own]
        axes.scatter([row.change for row in own], [100 * row.left for row in own], s=sizes, alpha=0.8,
                     marker=_MARKERS[place % len(_MARKERS)], label=name)  # fmt: skip
    line = sorted((row.change, 100 * row.left, row.number) for row in lower_left(front))
    axes.plot([item[0] for item in line], [item[1] for item in line], color="#999", linewidth=1, zorder=0)
    for row in front:
        where = (row.change, 100 * row.left)
        axes.annotate(str(row.number), where, textcoords="offset points", xytext=(5, 5), fontsize=8)
    edge = 1.15 * max(max(row.change for row in front), taken.change, 1e-3)
    beyond = sum(row.change > edge for row in rows)  # broken models, which would press the others together
    axes.set_xlim(-0.03 * edge, edge)
    axes.scatter([taken.change], [100 * taken.left], s=220, facecolors="none", edgecolors="black", label="taken")
    more = f"; {beyond} trials lie further right" if beyond else ""
    axes.set_xlabel(f"change of everything else (0: the base{more})")
    axes.set_ylabel("left of the concept (%)")
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    with atomic_file(path) as work:
        figure.savefig(work, format="png", dpi=120, metadata={"Software": STAMP})
    return path


def lower_left(front: Sequence[Row]) -> list[Row]:
    """Points of the front that are also on it when cost does not count."""
    return [
        row for row in front
        if not any(other.left <= row.left and other.change <= row.change and other.numbers[:2] != row.numbers[:2]
                   for other in front)
    ]  # fmt: skip
