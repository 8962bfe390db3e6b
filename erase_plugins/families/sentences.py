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
#: asks a language model for the meaning of a text; signs that are read of one, and texts that are read together
_ONE_WORD, LONGEST, _TOGETHER = 'This sentence : "{}" means in one word:"', 2000, 32


def windows(text: str, sizes: Sequence[int]) -> list[str]:
    """The text and the rows of so many words in it, without those that occur twice."""
    words = text.split()
    found = [text]
    for size in sizes:
        step = size // 2 if size > _SHORT else 1
        starts = range(0, max(len(words) - size + step, 0), step) if len(words) > size else ()
        found += [" ".join(words[start : start + size]) for start in starts]
    return list(dict.fromkeys(found))


@torch.no_grad()
def in_one_word(model: Any, texts: Sequence[str]) -> Tensor:
    """Rows (n, width) float32 on the CPU of `CausalLM.meanings`; texts of a length are read together."""
    ids = [list(model.tokenizer(_ONE_WORD.format(text[:LONGEST]))["input_ids"]) for text in texts]
    order = sorted(range(len(ids)), key=lambda place: len(ids[place]))
    found = []
    for start in range(0, len(order), _TOGETHER):
        places = order[start : start + _TOGETHER]
        rows = torch.zeros(len(places), len(ids[places[-1]]), dtype=torch.long)
        mask, last = torch.zeros_like(rows), torch.zeros_like(rows, dtype=torch.bool)
        for row, place in enumerate(places):
            size = len(ids[place])
            rows[row, :size], mask[row, :size], last[row, size - 1] = torch.tensor(ids[place]), 1, True
        found.append(model.states(rows, mask, last).float().cpu())
    return torch.cat(found)[torch.tensor(order).argsort()]


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
