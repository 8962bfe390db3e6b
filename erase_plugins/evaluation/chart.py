"""Bar charts of a report, drawn with matplotlib where it is installed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from erase_plugins.errors import MissingExtra
from erase_plugins.types import EvalRow

_COLOURS = {"base": "#7f8c8d", "edited": "#c0392b", "strength0": "#2980b9", "destroyed": "#2c3e50"}


def bar_chart(rows: Sequence[EvalRow], path: Path, title: str = "") -> Path:
    """Grouped bars with intervals, one group per metric.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra("the bar chart", "plots") from error
    from erase_plugins.artifacts.atomic import atomic_file
    from erase_plugins.artifacts.places import STAMP

    metrics = list(dict.fromkeys(row.metric for row in rows))
    subjects = list(dict.fromkeys(row.subject for row in rows))
    figure = Figure(figsize=(1.6 + 1.5 * len(metrics), 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    width = 0.8 / len(subjects)
    for number, subject in enumerate(subjects):
        table = {row.metric: row for row in rows if row.subject == subject and row.n}
        places = [
            index + (number - (len(subjects) - 1) / 2) * width for index, name in enumerate(metrics) if name in table
        ]
        picked = [table[name] for name in metrics if name in table]
        errors = [[row.value - row.low for row in picked], [row.high - row.value for row in picked]]
        axes.bar(places, [row.value for row in picked], width, yerr=errors, capsize=2, label=subject,
                 color=_COLOURS.get(subject))  # fmt: skip
    axes.set_xticks(range(len(metrics)), [name.replace("_rate", "") for name in metrics])
    axes.set_ylim(0, 1.05)
    axes.set_ylabel("share of pictures")
    axes.set_title(title, fontsize=10)
    axes.legend(fontsize=8, ncols=len(subjects), loc="upper center", bbox_to_anchor=(0.5, -0.1))
    with atomic_file(path) as work:
        figure.savefig(work, format="png", dpi=120, metadata={"Software": STAMP})
    return path
