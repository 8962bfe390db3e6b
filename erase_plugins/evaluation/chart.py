"""Bar charts of a report, drawn with matplotlib where it is installed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from erase_plugins.artifacts.places import STAMP
from erase_plugins.errors import MissingExtra
from erase_plugins.evaluation.wording import STATES
from erase_plugins.types import EvalRow

_COLOURS = {
    "base": "#7f8c8d", "edited": "#c0392b", "strength0": "#2980b9", "destroyed": "#2c3e50", "reference": "#27ae60",
}  # fmt: skip


def bar_chart(rows: Sequence[EvalRow], path: Path, title: str = "", unit: str = "share of pictures") -> Path:
    """Grouped bars with intervals, one group per metric.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    figure_class, canvas = matplotlib_parts()
    metrics = list(dict.fromkeys(row.metric for row in rows))
    subjects = list(dict.fromkeys(row.subject for row in rows))
    figure = figure_class(figsize=(1.6 + 1.5 * len(metrics), 3.8), layout="constrained")
    canvas(figure)
    axes = figure.add_subplot()
    width = 0.8 / len(subjects)
    for number, subject in enumerate(subjects):
        table = {row.metric: row for row in rows if row.subject == subject and row.n}
        places = [
            index + (number - (len(subjects) - 1) / 2) * width for index, name in enumerate(metrics) if name in table
        ]
        picked = [table[name] for name in metrics if name in table]
        errors = [[row.value - row.low for row in picked], [row.high - row.value for row in picked]]
        axes.bar(places, [row.value for row in picked], width, yerr=errors, capsize=2,
                 label=STATES.get(subject, subject), color=_COLOURS.get(subject))  # fmt: skip
    axes.set_xticks(range(len(metrics)), [name.replace("_rate", "").replace("_", " ") for name in metrics])
    axes.set_ylim(0, 1.05)
    axes.set_ylabel(unit)
    axes.set_title(title, fontsize=10)
    axes.legend(fontsize=8, ncols=min(len(subjects), len(metrics) + 1), loc="upper center", bbox_to_anchor=(0.5, -0.1))
    figure.savefig(path, format="png", dpi=120, metadata={"Software": STAMP})
    return path


#: (metric, label, colour) of the bars of `variant_chart`
DRAWN_AND_KEPT = (
    ("target_rate", "erased concept drawn", "#c0392b"),
    ("kept_rate", "kept concepts drawn", "#7f8c8d"),
)


def variant_chart(
    rows: Sequence[EvalRow], path: Path, title: str = "", bars: Sequence[tuple[str, str, str]] = DRAWN_AND_KEPT
) -> Path:
    """Two bars with intervals for each subject of the rows: changed models, or sets of prompts.

    Args:
        rows: rows with the metrics of ``bars``.
        path: PNG to write.
        title: line on top.
        bars: (metric, label, colour) of the two bars.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    figure_class, canvas = matplotlib_parts()
    names = list(dict.fromkeys(row.subject for row in rows if row.metric in {metric for metric, *_ in bars}))
    figure = figure_class(figsize=(7.5, 1.4 + 0.42 * len(names)), layout="constrained")
    canvas(figure)
    axes = figure.add_subplot()
    for number, (metric, label, colour) in enumerate(bars):
        table = {row.subject: row for row in rows if row.metric == metric and row.n}
        picked = [(place + (number - 0.5) * 0.38, table[name]) for place, name in enumerate(names) if name in table]
        errors = [[row.value - row.low for _, row in picked], [row.high - row.value for _, row in picked]]
        axes.barh([place for place, _ in picked], [row.value for _, row in picked], 0.36, xerr=errors, capsize=2,
                  label=label, color=colour)  # fmt: skip
    axes.set_yticks(range(len(names)), [STATES.get(name, name) for name in names])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.05)
    axes.set_xlabel("share of pictures, with 95 % intervals")
    axes.set_title(title, fontsize=10)
    figure.legend(fontsize=8, ncols=2, loc="outside lower center")  # beside the axes: few rows leave no room below
    figure.savefig(path, format="png", dpi=120, metadata={"Software": STAMP})
    return path


def class_chart(accuracies: Mapping[str, tuple[float, float]], path: Path, title: str = "") -> Path:
    """Two bars per class: accuracy before and after.

    Args:
        accuracies: class -> shares before and after, in the order of the bars.
        path: PNG to write.
        title: line on top.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    figure_class, canvas = matplotlib_parts()
    figure = figure_class(figsize=(6.5, 1.6 + 0.34 * len(accuracies)), layout="constrained")
    canvas(figure)
    axes = figure.add_subplot()
    for side, (label, colour) in enumerate((("before", "#7f8c8d"), ("after", "#c0392b"))):
        places = [place + (side - 0.5) * 0.38 for place in range(len(accuracies))]
        axes.barh(places, [pair[side] for pair in accuracies.values()], 0.36, label=label, color=colour)
    axes.set_yticks(range(len(accuracies)), list(accuracies))
    axes.invert_yaxis()
    axes.set_xlim(0, 1.05)
    axes.set_xlabel("share of pictures that get the right label")
    axes.set_title(title, fontsize=10)
    axes.legend(fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.12))
    figure.savefig(path, format="png", dpi=120, metadata={"Software": STAMP})
    return path


def matplotlib_parts() -> tuple[Any, Any]:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra("the chart", "plots") from error
    return Figure, FigureCanvasAgg
