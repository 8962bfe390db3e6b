"""Figures of the suite ``language``, drawn with matplotlib where it is installed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from erase_plugins.artifacts.places import STAMP
from erase_plugins.errors import MissingExtra

COLOURS = {"base": "#7f8c8d", "edited": "#c0392b", "reference": "#000000", "destroyed": "#2c3e50"}
#: strokes of lines that are not drawn through: one of the colours in turn is nearly that of the base
_STROKES = {"base": "--"}


def distributions(ratios: Mapping[str, Sequence[float]], path: Path, title: str = "") -> Path:
    """Share of the facts whose truth ratio is at most so much, a line per model, on a logarithmic axis.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    figure, axes = _axes(title)
    for name, values in ratios.items():
        ordered = sorted(max(value, 1e-12) for value in values)
        shares = [place / len(ordered) for place in range(1, len(ordered) + 1)]
        axes.step(ordered, shares, where="post", label=name, color=COLOURS.get(name), linestyle=_STROKES.get(name, "-"))
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.axvline(1.0, color="#bbbbbb", linewidth=0.8)
    axes.set_xlabel("truth ratio (true answer / wrong answers)")
    axes.set_ylabel("share of facts")
    return _saved(figure, path)


def curves(curves: Mapping[str, Mapping[int, float]], path: Path, title: str = "") -> Path:
    """Mean probability of facts that were not taught, by steps of relearning, a line per model.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    figure, axes = _axes(title)
    for name, points in curves.items():
        steps = sorted(points)
        axes.plot(steps, [points[step] for step in steps], marker="o", label=name, color=COLOURS.get(name),
                  linestyle=_STROKES.get(name, "-"))  # fmt: skip
    axes.set_ylim(0, 1.05)
    axes.set_xlabel("steps of training on other facts")
    axes.set_ylabel("probability of forgotten facts")
    return _saved(figure, path)


def against(points: Mapping[str, Sequence[tuple[float, float]]], path: Path, title: str = "") -> Path:
    """Forgetting against utility: label -> (probability of what is forgotten, utility), a mark per run.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    figure, axes = _axes(title)
    for name, pairs in points.items():
        marker = {"base": "s", "reference": "*"}.get(name, "o")
        axes.scatter(*zip(*pairs, strict=True), label=name, marker=marker, s=90 if marker == "*" else 30,
                     color=COLOURS.get(name))  # fmt: skip
    axes.set_xlabel("probability of what is forgotten")
    axes.set_ylabel("utility")
    return _saved(figure, path)


def _axes(title: str) -> tuple[Any, Any]:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra("the chart", "plots") from error
    figure = Figure(figsize=(6.4, 3.9), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_title(title, fontsize=10)
    return figure, axes


def _saved(figure: Any, path: Path) -> Path:
    figure.legend(fontsize=8, loc="outside right upper")
    figure.savefig(path, format="png", dpi=120, metadata={"Software": STAMP})
    return path
