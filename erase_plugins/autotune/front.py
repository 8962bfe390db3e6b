"""The trade-off for people: a table and a picture of all trials, with the front and the point that was taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from erase_plugins.artifacts.atomic import atomic_file
from erase_plugins.artifacts.places import STAMP
from erase_plugins.autotune.trials import GOOD, Row
from erase_plugins.errors import MissingExtra
from erase_plugins.evaluation.wording import percent

_MARKERS = "os^DvPX"
#: kinds of prompt that a judge can be shown
_KINDS = ("name", "synonyms", "descriptions")


def cost_text(cost: float, unit: str) -> str:
    """The third number for people."""
    return f"{cost / 1e3:.0f} kB" if unit == "size" else f"{cost:.1f} s"


def share_text(share: float) -> str:
    """A share for people, with what pictures can tell apart."""
    return f"{percent(share)} %"


def cells(row: Row, parts: Sequence[str], unit: str) -> list[str]:
    """The numbers of a trial for a table: what is left, of which kinds of prompt, change, and the third one."""
    own = [share_text(row.parts[name]) if name in row.parts else "-" for name in parts]
    return [share_text(row.left), *own, f"{row.change:.3f}", cost_text(row.cost, unit)]


def base_cells(base: Mapping[str, float]) -> list[str]:
    """The same of the model without an edit."""
    return [share_text(1.0), *map(share_text, base.values()), "0.000", "-"]


def not_measured(base: Mapping[str, float]) -> str:
    """A sentence about kinds of prompt that say nothing here; "" where there are none, or no judge."""
    absent = [name for name in _KINDS if name not in base]
    if not absent or len(absent) == len(_KINDS):
        return ""
    return f"not measured: {', '.join(absent)} (none are known, or the base does not draw the concept from them)"


def markdown(
    title: str, rows: Sequence[Row], front: Sequence[Row], taken: Row, base: Mapping[str, float], unit: str, told: str
) -> str:
    """The front as a table, and below it the trials that it beats, the nearest to nothing left and changed first."""
    parts, unmeasured = list(base), not_measured(base)
    absent = f" {unmeasured.capitalize()}." if unmeasured else ""
    columns = f"| trial | settings | left | {' | '.join(parts)} | change | {unit} |"
    line = "|---" * (5 + len(parts)) + "|"

    def told_of(row: Row) -> str:
        mark = " (taken)" if row.number == taken.number else ""
        label = row.label.replace("|", "\\|")
        return f"| {row.number}{mark} | {label} | {' | '.join(cells(row, parts, unit))} |"

    lines = [
        "# Methods compared",  # the stamp by which the file is known as ours
        "",
        f"{title}. {told}",
        "",
        "`left` is the sum of the columns behind it over that of the base, 0 % is gone. `change` is the mean squared "
        "distance of the denoiser's predictions on retained prompts from the base's, over that of these prompts to the "
        "empty prompt; 0 is the base." + absent,
        "",
        columns,
        line,
        f"| - | base model | {' | '.join(base_cells(base))} |",
        *(told_of(row) for row in sorted(front, key=lambda item: (item.left, item.change))),
    ]
    on = {row.number for row in front}
    beaten = sorted((row for row in rows if row.number not in on), key=lambda item: (item.distance, item.number))
    if beaten:
        lines += ["", "No better than one of these in any number:", "", columns, line, *map(told_of, beaten)]
    return "\n".join(lines) + "\n"


def picture(title: str, rows: Sequence[Row], front: Sequence[Row], taken: Row, path: Path) -> Path:
    """All trials, what is left against what has changed; the front is numbered and joined, the point taken is ringed.

    Both axes are linear up to where the search ends, which is shaded, and logarithmic beyond, so that a broken model
    does not press the others together.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.patches import Rectangle
        from matplotlib.scale import SymmetricalLogScale
        from matplotlib.ticker import FixedLocator, NullLocator
    except ImportError as error:
        raise MissingExtra("the picture of the front", "plots") from error
    figure: Any = Figure(figsize=(9, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(1, 1, 1)
    on = {row.number for row in front}
    for place, name in enumerate(dict.fromkeys(row.settings.method for row in rows)):
        own = [row for row in rows if row.settings.method == name]
        sizes = [60 if row.number in on else 24 for row in own]
        axes.scatter([row.change for row in own], [100 * row.left for row in own], s=sizes, alpha=0.8, zorder=3,
                     marker=_MARKERS[place % len(_MARKERS)], label=name, clip_on=False)  # fmt: skip
    line = sorted((row.change, 100 * row.left, row.number) for row in lower_left(front))
    axes.plot([item[0] for item in line], [item[1] for item in line], color="#999", linewidth=1, zorder=2)
    for row in front:
        where = (row.change, 100 * row.left)
        axes.annotate(str(row.number), where, textcoords="offset points", xytext=(7, 7), fontsize=8)
    axes.scatter([taken.change], [100 * taken.left], s=220, facecolors="none", edgecolors="black", label="taken",
                 zorder=4, clip_on=False)  # fmt: skip
    axes.add_patch(Rectangle((0, 0), GOOD, 100 * GOOD, color="#8c8", alpha=0.3, linewidth=0, zorder=1,
                             label="the search ends"))  # fmt: skip
    for name, unit, most in (("x", 1.0, max(row.change for row in rows)), ("y", 100.0, max(row.left for row in rows))):
        bend, edge = unit * GOOD, unit * max(1.25 * most, 4 * GOOD)
        axis = getattr(axes, f"{name}axis")
        scale = SymmetricalLogScale(axis, linthresh=bend, linscale=0.6)
        axes.set(**{f"{name}scale": scale, f"{name}lim": (0.0, edge)})
        axis.set_major_locator(FixedLocator([0.0, bend, *(10.0**n for n in range(-3, 4) if bend < 10.0**n <= edge)]))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(lambda value, _place: f"{value:g}")
    axes.set_xlabel("change of everything else (0: the base, 1: as far as without a prompt)")
    axes.set_ylabel("left of the concept (%)")
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize=8)
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
