"""Bars and tables as pictures, (1, height, width, 3) in 0..1. Drawn with Pillow, which every ComfyUI has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

WIDTH = 760
_LABEL, _NUMBER, _MARGIN, _LINE = 250, 150, 16, 26
#: erased, kept, brought back, before
RED, BLUE, ORANGE, GREY = "#c0392b", "#2980b9", "#e67e22", "#95a5a6"


@dataclass(frozen=True)
class Bar:
    """One bar.

    Attributes:
        label: in front of it.
        value: length in 0..1; longer ones are cut.
        text: number behind it.
        colour: of the bar.
        interval: drawn as a line over its end.
    """

    label: str
    value: float
    text: str
    colour: str = RED
    interval: tuple[float, float] | None = None


def bars(title: str, items: Sequence[Bar]) -> Tensor:
    """Horizontal bars below a title."""
    from PIL import ImageFont

    picture, pen = _sheet(len(items), title)
    font = ImageFont.load_default(14)
    room = WIDTH - _LABEL - _NUMBER - 2 * _MARGIN
    for line, item in enumerate(items):
        y = _top(line)
        pen.text((_MARGIN, y + 4), _cut(item.label, _LABEL - 12, font), fill="#222222", font=font)
        left = _MARGIN + _LABEL
        pen.rectangle((left, y + 4, left + room, y + 20), fill="#eeeeee")
        end = left + round(room * _clamp(item.value))
        if end > left:
            pen.rectangle((left, y + 4, end, y + 20), fill=item.colour)
        if item.interval is not None:
            low, high = (left + round(room * _clamp(part)) for part in item.interval)
            pen.line((low, y + 12, high, y + 12), fill="#222222", width=2)
        pen.text((left + room + 10, y + 4), item.text, fill="#222222", font=font)
    return _tensor(picture)


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> Tensor:
    """A table; the first column is wide."""
    from PIL import ImageFont

    picture, pen = _sheet(len(rows) + 1, title)
    font = ImageFont.load_default(14)
    each = (WIDTH - _LABEL - 2 * _MARGIN) // max(len(head) - 1, 1)
    for line, row in enumerate([head, *rows]):
        y = _top(line)
        if line % 2:
            pen.rectangle((_MARGIN, y, WIDTH - _MARGIN, y + _LINE - 1), fill="#f4f4f4")
        for column, text in enumerate(row):
            x = _MARGIN + 4 + (_LABEL + (column - 1) * each if column else 0)
            width = (_LABEL if column == 0 else each) - 10
            pen.text((x, y + 5), _cut(text, width, font), fill="#222222" if line else "#666666", font=font)
    return _tensor(picture)


def below(pictures: Sequence[Tensor]) -> Tensor:
    """Pictures of one width below each other."""
    return torch.cat(list(pictures), dim=1)


def _sheet(lines: int, title: str) -> tuple[Any, Any]:
    from PIL import Image, ImageDraw, ImageFont

    picture = Image.new("RGB", (WIDTH, _top(lines) + _MARGIN), "white")
    pen = ImageDraw.Draw(picture)
    font = ImageFont.load_default(17)
    pen.text((_MARGIN, 12), _cut(title, WIDTH - 2 * _MARGIN, font), fill="black", font=font)
    return picture, pen


def _top(line: int) -> int:
    return 44 + line * _LINE


def _clamp(value: float) -> float:
    return min(max(value, 0.0), 1.0)


def _cut(text: str, width: int, font: Any) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."


def _tensor(picture: Any) -> Tensor:
    import numpy

    return torch.from_numpy(numpy.asarray(picture).copy()).float()[None] / 255
