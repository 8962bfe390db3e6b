"""Contact sheets: labelled rows of pictures, for people who look rather than read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

_MARGIN = 8
_LABEL = 150
_TITLE, _HEADINGS, _SIZE = 28, 22, 96


def to_image(picture: Tensor) -> Any:
    """A PIL image of a (3, height, width) picture in 0..1."""
    from PIL import Image

    array = (picture.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(array)


def contact_sheet(
    rows: Sequence[tuple[str, Sequence[Tensor]]],
    path: Path,
    *,
    columns: Sequence[str] = (),
    title: str = "",
    size: int = _SIZE,
) -> Path:
    """Writes rows of pictures with a label in front of each row.

    Args:
        rows: (label, pictures (3, height, width) in 0..1).
        path: PNG to write.
        columns: headings over the columns.
        title: line on top.
        size: edge of a cell in pixels.
    """
    from PIL import Image, ImageDraw, ImageFont

    from erase_plugins.artifacts.atomic import atomic_file
    from erase_plugins.artifacts.places import png_stamp

    font = ImageFont.load_default(13)
    bold = ImageFont.load_default(16)
    top = (_TITLE if title else 0) + (_HEADINGS if columns else 0) + _MARGIN
    width = _LABEL + max(len(pictures) for _, pictures in rows) * (size + _MARGIN) + _MARGIN
    sheet = Image.new("RGB", (width, top + len(rows) * (size + _MARGIN) + _MARGIN), "white")
    pen = ImageDraw.Draw(sheet)
    if title:
        pen.text((_MARGIN, _MARGIN), title, fill="black", font=bold)
    for index, heading in enumerate(columns):
        pen.text((_LABEL + index * (size + _MARGIN), top - 20), _fit(heading, size, font), fill="#444", font=font)
    for line, (label, pictures) in enumerate(rows):
        y = top + line * (size + _MARGIN)
        for offset, part in enumerate(_wrap(label, _LABEL - 2 * _MARGIN, font)[:5]):
            pen.text((_MARGIN, y + 4 + 16 * offset), part, fill="black", font=font)
        for index, picture in enumerate(pictures):
            cell = to_image(picture).resize((size, size), Image.Resampling.LANCZOS)
            sheet.paste(cell, (_LABEL + index * (size + _MARGIN), y))
    with atomic_file(path) as work:
        sheet.save(work, format="PNG", pnginfo=png_stamp())
    return path


def corner(line: int, place: int) -> tuple[int, int, int]:
    """Left, top and edge in pixels of a picture in a line of a sheet with a title and without headings."""
    step = _SIZE + _MARGIN
    return _LABEL + place * step, _TITLE + _MARGIN + line * step, _SIZE


def _wrap(text: str, width: int, font: Any) -> list[str]:
    lines, line = [], ""
    for word in text.split():
        trial = f"{line} {word}".strip()
        if line and font.getlength(trial) > width:
            lines.append(line)
            line = word
        else:
            line = trial
    return [*lines, line]


def _fit(text: str, width: int, font: Any) -> str:
    while text and font.getlength(text) > width:
        text = text[:-1]
    return text


def enlarged(drawn: Any, least: int = 256) -> Any:
    """A PIL picture; a small one is enlarged by a whole factor, pixels stay pixels."""
    from PIL import Image

    made = to_image(drawn)
    factor = max(1, -(-least // max(made.size)))
    return made.resize((made.width * factor, made.height * factor), Image.Resampling.NEAREST)
