"""Text rows of flow transformers as closed forms count them, whichever program encodes the prompts."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional

from erase_plugins.families.conditioning import Part
from erase_plugins.families.target import Conditioning


def flow_rows(
    prompts: Sequence[str],
    encoded: Sequence[tuple[Tensor, Tensor]],
    width: int,
    ends: Sequence[int] | None,
    clip: int,
    last: Sequence[int],
) -> Conditioning:
    """The pooled row, then the token rows of every length of padding; columns as in `families.flow`.

    Args:
        prompts: what was encoded.
        encoded: token rows (prompts, rows, tokens) and pooled rows (prompts, pooled) for each length.
        width: tokens + pooled.
        ends: row of the last content token among T5's own, -1 for an empty prompt; None without T5.
        clip: rows of CLIP above those of T5.
        last: row of the last content token among those of CLIP.
    """
    import torch

    wide: list[Tensor] = []
    spans: list[tuple[int, int, Sequence[int]]] = []
    for place, (embeds, pooled) in enumerate(encoded):
        tokens = embeds.shape[-1]
        if not place:
            first = pooled.new_zeros(len(prompts), 1, width)
            first[:, 0, tokens:] = pooled
            wide.append(first)
        cut = embeds if not place else embeds[:, clip:]
        start = sum(part.shape[1] for part in wide)
        if not place and clip:
            spans.append((start, start + clip, last))
            start += clip
        if ends is not None:
            length = embeds.shape[1] - clip
            spans.append((start, start + length, tuple(min(end, length - 1) for end in ends)))
        wide.append(functional.pad(cut, (0, width - tokens)))
    parts = tuple(Part(start, stop, tuple(start + row for row in rows)) for start, stop, rows in spans)
    found = torch.cat(wide, 1)
    return Conditioning(found, tuple(max(row, 0) for row in parts[0].last), None, tuple(prompts), parts)
