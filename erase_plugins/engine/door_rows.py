"""Rows of prompts whose text encoders lie below each other, one of them unmasked: which are paired, and in few rows.

T5 reads no mask, so hundreds of padding rows carry content too. Rows enter a closed form through sums over rows only,
which an orthogonal change of the rows leaves as they are: the leading ones of the singular value decomposition stand
for all.
"""

from __future__ import annotations

import torch
from torch import Tensor

from erase_plugins.families.base import Conditioning

#: rows that stand for the end and padding rows of one text encoder
PADS = 8
#: smaller directions than this share of the largest are left out
_SHARE = 1e-3


def paired_parts(erased: Conditioning, guide: Conditioning, i: int, j: int, mode: str) -> tuple[Tensor, Tensor]:
    """Rows of a prompt and the rows they become, (n, dim) float64 each: the pooled row, then those of every part.

    Args:
        erased, guide: prompts as `TextEncoder.rows` gives them, row 0 is the pooled one.
        i, j: which prompt of each.
        mode: as in `prompt_templates.paired_rows`.
    """
    a, b = erased.embeds[i].cpu().double(), guide.embeds[j].cpu().double()
    pairs = [(a[:1], b[:1])]
    for mine, theirs in zip(erased.parts, guide.parts, strict=True):
        first, second = mine.last[i], max(theirs.last[j], theirs.start)
        behind, other = a[first + 1 : mine.stop], b[theirs.last[j] + 1 : theirs.stop]
        if mode == "all":
            pairs.append((a[mine.start : mine.stop], b[theirs.start : theirs.stop]))
            continue
        if mode != "eot":
            pairs.append((a[first : first + 1], b[second : second + 1]))
        if mode == "window":
            length = min(len(behind), len(other))
            pairs.append(condensed(behind[:length], other[:length]))
        elif mode != "last":
            pairs.append((behind[:1], other[:1]))
    return torch.cat([one for one, _ in pairs]), torch.cat([other for _, other in pairs])


def kept_parts(cond: Conditioning, index: int) -> Tensor:
    """Rows (n, dim) float32 of a prompt that stays: the pooled row, content rows, few rows for end and padding."""
    rows = cond.embeds[index].cpu().double()
    found = [rows[:1]]
    for part in cond.parts:
        found.append(rows[part.start : part.last[index] + 1])
        found.append(condensed(rows[part.last[index] + 1 : part.stop])[0])
    return torch.cat(found).float().contiguous()


def part_meaning(cond: Conditioning) -> Tensor:
    """Mean of the rows behind the last content token, and the pooled row in its own columns; (prompts, dim) float64."""
    rows = cond.embeds.cpu().double()
    found = rows[:, 0].clone()
    for part in cond.parts:
        for index, last in enumerate(part.last):
            start = min(last + 1, part.stop - 1)
            found[index] += rows[index, start : part.stop].mean(0) / len(cond.parts)
    return found


def condensed(rows: Tensor, other: Tensor | None = None, most: int = PADS) -> tuple[Tensor, Tensor]:
    """Few rows, and what they become, with the sums of all: of ``rows^T rows`` and ``other^T rows`` little is lost.

    Args:
        rows: (n, dim).
        other: (n, dim); ``rows`` if None.
        most: how many at most.
    """
    other = rows if other is None else other
    if not len(rows):
        return rows, other
    both = rows if other is rows else torch.cat([rows, other], 1)
    energy, left = torch.linalg.eigh(both @ both.T)
    keep = min(most, int((energy > _SHARE**2 * energy[-1]).sum()))
    turned = left.flip(1)[:, : max(keep, 1)].T
    return turned @ rows, turned @ other
