"""The figures of the classifier suite: rates, classes, confusion, changed blocks, relearning, changed weights."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from erase_plugins.artifacts.places import STAMP
from erase_plugins.types import Attachment, EvalRow

if TYPE_CHECKING:
    from torch import Tensor

    from erase_plugins.artifacts.edit import Edit

#: classes in a figure, those that lose most
_SHOWN = 20
#: of a block's name the part up to the last number
_BLOCK = re.compile(r".*?(\.\d+)+(?=\.)")
#: (metric, label, colour) of the bars by change of the weights
_RECOGNISED = (("target_rate", "forgotten", "#c0392b"), ("kept_rate", "others", "#7f8c8d"))
_COLOURS = {"base": "#7f8c8d", "edited": "#c0392b", "destroyed": "#2c3e50"}


@dataclass(frozen=True)
class Figures:
    """What the figures show.

    Attributes:
        title: on top of each.
        labels: of the model.
        gone: numbers of forgotten classes.
        before, after: pictures by (true class, predicted class).
        classes: label -> accuracy before and after, of labels with pictures.
        rows: of the report.
        curves: subject -> steps of relearning -> accuracy.
        variants: accuracies on what was forgotten and on the others, by change of the weights.
    """

    title: str
    labels: Sequence[str]
    gone: Sequence[int]
    before: Tensor
    after: Tensor
    classes: Mapping[str, tuple[float, ...]]
    rows: Sequence[EvalRow]
    curves: Mapping[str, Mapping[int, float]]
    variants: Sequence[EvalRow] = ()

    @property
    def shown(self) -> list[str]:
        """Forgotten classes, then those that lose most."""
        gone = [self.labels[number] for number in self.gone]
        others = sorted((name for name in self.classes if name not in gone), key=self.change)
        return [*(name for name in gone if name in self.classes), *others][:_SHOWN]

    def change(self, name: str) -> float:
        """Accuracy after minus before."""
        return self.classes[name][1] - self.classes[name][0]

    def attachments(self, edits: Sequence[Edit]) -> tuple[Attachment, ...]:
        """All of them, drawn when they are asked for."""
        from erase_plugins.evaluation.chart import bar_chart, class_chart

        rates = [row for row in self.rows if row.metric in ("target_rate", "kept_rate")]
        pairs = {name: (self.classes[name][0], self.classes[name][1]) for name in self.shown}
        found = [
            Attachment("chart.png", lambda path: bar_chart(rates, path, self.title), "accuracies with their intervals"),
            Attachment("classes.png", lambda path: class_chart(pairs, path, self.title), "accuracy by class"),
            Attachment("confusion.png", self.confusion, "true and predicted classes, before and after"),
        ]
        norms = block_norms(edits)
        if len(norms) > 1:
            found.append(Attachment("blocks.png", lambda path: blocks(norms, path, self.title), "size of the change"))
        if self.curves:
            found.append(Attachment("relearn.png", self.relearning, "accuracy while it is taught again"))
        if self.variants:
            found.append(Attachment("weights.png", self.changed, "accuracies by change of the weights"))
        return tuple(found)

    def changed(self, path: Path) -> None:
        """Two bars per change of the weights."""
        from erase_plugins.evaluation.chart import variant_chart

        variant_chart(self.variants, path, self.title, _RECOGNISED)

    def confusion(self, path: Path) -> None:
        """Two matrices side by side: shares of each true class's pictures."""
        numbers = [self.labels.index(name) for name in self.shown]
        figure, (left, right), shown = _figure(1, 2, (2.6 + 0.42 * len(numbers), 2.1 + 0.2 * len(numbers)))
        names = [*self.shown, "others"] if len(numbers) < len(self.labels) else list(self.shown)
        for axes, table, when in ((left, self.before, "before"), (right, self.after, "after")):
            part = table[numbers].double()
            part = part / part.sum(1, keepdim=True).clamp_min(1)
            cells = part[:, numbers].tolist()
            if len(names) > len(numbers):
                cells = [[*row, max(0.0, 1 - sum(row))] for row in cells]
            axes.imshow(cells, vmin=0, vmax=1, cmap="Blues")
            axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
            axes.set_yticks(range(len(numbers)), self.shown if axes is left else [""] * len(numbers), fontsize=7)
            for place, name in enumerate(self.shown):
                if self.labels.index(name) in self.gone and axes is left:
                    axes.get_yticklabels()[place].set_color(_COLOURS["edited"])
            axes.set_xlabel("predicted", fontsize=8)
            axes.set_title(when, fontsize=9)
        left.set_ylabel("true class (forgotten ones in red)")
        figure.suptitle(self.title, fontsize=10)
        shown(path)

    def relearning(self, path: Path) -> None:
        """A line per subject."""
        _, axes, shown = _figure(1, 1, (5.5, 3.6))
        for name, curve in self.curves.items():
            axes.plot(list(curve), list(curve.values()), marker="o", markersize=3, label=name, color=_COLOURS.get(name))
        axes.set_ylim(-0.02, 1.05)
        axes.set_xlabel("training steps on a few pictures of what was forgotten")
        axes.set_ylabel("accuracy on others of it")
        axes.set_title(self.title, fontsize=10)
        axes.legend(fontsize=8)
        shown(path)


def block_norms(edits: Sequence[Edit]) -> dict[str, float]:
    """Block -> root of the summed squares of its changes, in the order of the model; other
    modules by their name. Changes that are none of weights are left out."""
    from erase_plugins.artifacts.edit import Dense, LowRank, Sparse

    squares: dict[str, float] = {}
    for edit in edits:
        for _, key, delta in edit.items():
            if not isinstance(delta, Dense | LowRank | Sparse):
                continue
            found = _BLOCK.match(key)
            name = found[0] if found else key.rpartition(".")[0] or key
            squares[name] = squares.get(name, 0.0) + float(delta.dense().double().square().sum())
    return {name: value**0.5 for name, value in squares.items()}


def blocks(norms: Mapping[str, float], path: Path, title: str) -> None:
    """A bar per block."""
    _, axes, shown = _figure(1, 1, (6.5, 1.4 + 0.3 * len(norms)))
    axes.barh(range(len(norms)), list(norms.values()), color=_COLOURS["edited"])
    axes.set_yticks(range(len(norms)), list(norms), fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("size of the change (Frobenius norm); blocks that are missing were not changed")
    axes.set_title(title, fontsize=10)
    shown(path)


def _figure(rows: int, columns: int, size: tuple[float, float]) -> tuple[Any, Any, Any]:
    """A figure, its axes, and what writes it.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    from erase_plugins.evaluation.chart import matplotlib_parts

    figure_class, canvas = matplotlib_parts()
    figure = figure_class(figsize=size, layout="constrained")
    canvas(figure)

    def write(path: Path) -> None:
        figure.savefig(path, format="png", dpi=120, metadata={"Software": STAMP})

    return figure, figure.subplots(rows, columns), write
