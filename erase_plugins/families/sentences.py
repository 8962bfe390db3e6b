"""Prompts as one vector each, as the model itself has their meaning (``meanings``), less what all have in common.

A prompt is looked at as a whole and in pieces, since one word among many changes the whole little.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

#: rows of more words than this overlap by half only
_SHORT = 4


def windows(text: str, sizes: Sequence[int]) -> list[str]:
    """The text and the rows of so many words in it, without those that occur twice."""
    words = text.split()
    found = [text]
    for size in sizes:
        step = size // 2 if size > _SHORT else 1
        starts = range(0, max(len(words) - size + step, 0), step) if len(words) > size else ()
        found += [" ".join(words[start : start + size]) for start in starts]
    return list(dict.fromkeys(found))


class Remembered:
    """A model that is asked once for the meaning of a text."""

    def __init__(self, target: Any) -> None:
        self.target, self.windows = target, target.windows
        self.rows: dict[str, Tensor] = {}

    def meanings(self, texts: Sequence[str]) -> Tensor:
        """As the model gives them."""
        new = [text for text in dict.fromkeys(texts) if text not in self.rows]
        if new:
            self.rows.update(zip(new, self.target.meanings(new), strict=True))
        return torch.stack([self.rows[text] for text in texts])


def embedded(target: Any, texts: Sequence[str], center: Tensor) -> Tensor:
    """Unit vectors (n, width) of texts; ``center`` (width,) is what they have in common."""
    rows = target.meanings(texts) - center
    return rows / rows.norm(dim=-1, keepdim=True).clamp_min(1e-12)


def score(target: Any, text: str, center: Tensor, anchors: Tensor) -> float:
    """Largest cosine of a text, or of a row of words in it, with an anchor (n, width); -1 for an empty text."""
    if not text.strip():
        return -1.0
    return float((embedded(target, windows(text, target.windows), center) @ anchors.T).max())
