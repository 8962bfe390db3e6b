"""Whole prompts as one vector of the model's own text encoder: mean of the content rows, less a common part, unit length.

The rows of one encoder share a large part; without taking it out every two prompts look alike. What is left tells
topics apart, not a style from its neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

#: long prompts dilute what they name: rows of words are looked at too
WINDOW, STRIDE = 8, 4


def windows(text: str) -> list[str]:
    """The text, and rows of `WINDOW` words in it, `STRIDE` apart, if it is longer."""
    words = text.split()
    if len(words) <= WINDOW:
        return [text]
    starts = range(0, len(words) - WINDOW + STRIDE, STRIDE)
    return [text, *(" ".join(words[start : start + WINDOW]) for start in starts)]


def means(target: Any, texts: Sequence[str]) -> Tensor:
    """Mean content row of every text, (n, width) float32; zeros for an empty one."""
    cond = target.encode(list(texts))
    rows = cond.embeds.float().cpu()
    found = [row[1 : last + 1].mean(0) if last else torch.zeros(row.shape[-1]) for row, last in zip(rows, cond.last, strict=True)]  # fmt: skip
    return torch.stack(found)


def embedded(target: Any, texts: Sequence[str], center: Tensor) -> Tensor:
    """Unit vectors (n, width) of texts; ``center`` (width,) is what they have in common. Zero for an empty one."""
    rows = means(target, texts)
    rows = torch.where((rows == 0).all(-1, keepdim=True), rows, rows - center)
    return rows / rows.norm(dim=-1, keepdim=True).clamp_min(1e-12)


def score(target: Any, text: str, center: Tensor, anchors: Tensor) -> float:
    """Largest cosine of a text, or of a row of words in it, with an anchor (n, width); -1..1."""
    return float((embedded(target, windows(text), center) @ anchors.T).max())
