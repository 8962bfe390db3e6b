"""Prompts as one vector of the model's text encoder: mean of the end and padding rows, less what all have in common.

The rows behind the last word carry what a prompt means; those of its words depend more on the frame they stand in. A
prompt is looked at as a whole and in pieces, since one word among many changes the whole little.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

#: rows of that many words are looked at by themselves; the last ones every `STRIDE` words only
WINDOWS, STRIDE = (1, 2, 3, 8), 4


def windows(text: str) -> list[str]:
    """The text and the rows of words in it, without those that occur twice."""
    words = text.split()
    found = [text]
    for size in WINDOWS:
        step = STRIDE if size > STRIDE else 1
        starts = range(0, max(len(words) - size + step, 0), step) if len(words) > size else ()
        found += [" ".join(words[start : start + size]) for start in starts]
    return list(dict.fromkeys(found))


def means(target: Any, texts: Sequence[str]) -> Tensor:
    """Mean end and padding row of every text, (n, width) float32."""
    cond = target.encode(list(texts))
    return torch.stack(
        [row[last + 1 :].mean(0) for row, last in zip(cond.embeds.float().cpu(), cond.last, strict=True)]
    )


def embedded(target: Any, texts: Sequence[str], center: Tensor) -> Tensor:
    """Unit vectors (n, width) of texts; ``center`` (width,) is what they have in common."""
    rows = means(target, texts) - center
    return rows / rows.norm(dim=-1, keepdim=True).clamp_min(1e-12)


def score(target: Any, text: str, center: Tensor, anchors: Tensor) -> float:
    """Largest cosine of a text, or of a row of words in it, with an anchor (n, width); -1 for an empty text."""
    if not text.strip():
        return -1.0
    return float((embedded(target, windows(text), center) @ anchors.T).max())
