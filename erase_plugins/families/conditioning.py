"""Prompts as a text encoder gives them: encoded, and as token numbers. No torch at import."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Part:
    """Rows of one text encoder among those of an encoded prompt.

    Attributes:
        start, stop: its first row and the one behind its last.
        last: row of the last content token of each prompt; the row before the first content row for an empty one.
    """

    start: int
    stop: int
    last: tuple[int, ...]


@dataclass
class Conditioning:
    """Encoded prompts.

    Attributes:
        embeds: (prompts, tokens, width) as the denoiser receives it.
        last: row of the last content token of each prompt; 0 for an empty prompt.
        pooled: (prompts, pooled width) or None.
        parts: which rows are whose, where several text encoders' rows lie below each other (`TextEncoder.rows`).
        start: row at which content begins: 0 where the text encoder has no start token (T5).
    """

    embeds: Tensor
    last: tuple[int, ...]
    pooled: Tensor | None = None
    prompts: tuple[str, ...] = ()
    parts: tuple[Part, ...] = ()
    start: int = 1

    def is_empty(self, index: int) -> bool:
        """Whether a prompt has no content tokens."""
        if self.parts:
            return any(part.last[index] < part.start for part in self.parts)
        if self.start == 0 and self.prompts and self.prompts[index].strip():
            return False  # row 0 is the last one of a prompt of one token
        return self.last[index] < 1

    def __getitem__(self, index: int | slice | Sequence[int]) -> Conditioning:
        import torch

        picks = [index] if isinstance(index, int) else index
        rows = torch.arange(len(self.last))[picks].tolist()
        return Conditioning(
            embeds=self.embeds[rows],
            last=tuple(self.last[row] for row in rows),
            pooled=None if self.pooled is None else self.pooled[rows],
            prompts=tuple(self.prompts[row] for row in rows) if self.prompts else (),
            parts=tuple(Part(part.start, part.stop, tuple(part.last[row] for row in rows)) for part in self.parts),
            start=self.start,
        )


@dataclass(frozen=True)
class Tokens:
    """Prompts as padded token numbers, before the text encoders.

    Attributes:
        ids: text encoder -> (prompts, tokens) int64.
        last: row of the last content token of each prompt; 0 for an empty prompt.
        prompts: their texts.
    """

    ids: Mapping[str, Tensor]
    last: tuple[int, ...]
    prompts: tuple[str, ...] = ()

    def __getitem__(self, rows: Sequence[int]) -> Tokens:
        return Tokens(
            ids={name: ids[list(rows)] for name, ids in self.ids.items()},
            last=tuple(self.last[row] for row in rows),
            prompts=tuple(self.prompts[row] for row in rows) if self.prompts else (),
        )
