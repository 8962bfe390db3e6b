"""Rows of a concept inside prompts, paired with those of the same prompts with what it becomes, or without it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from erase_plugins.errors import RequestError
from erase_plugins.families.base import Target


def frame_rows(phrases: Sequence[str], guide: str, frames: Sequence[str], target: Target) -> tuple[Tensor, Tensor]:
    """Rows from the concept's last token on, and the rows that stand there with the guide, (n, dim) float32.

    In a causal text encoder every row from there on carries the concept: itself, the words behind it, end and padding.
    Many rows are alike, so they are `condensed`.

    Args:
        phrases: what means the concept.
        guide: what it becomes; blank leaves the rest of the prompt.
        frames: prompts; {} is the phrase.
        target: its text encoder is asked.

    Raises:
        RequestError: the model has several text encoders, or a frame has no place for the concept.
    """
    rows, guides = [], []
    for frame in frames:
        if "{}" not in frame:
            raise RequestError(f"frames: '{frame}' has no place {{}} for the concept")
        mine, theirs = _ends(phrases, frame, target), _ends([guide], frame, target)
        for own, starts in mine:
            becomes, others = theirs[0]
            length = min(len(own) - starts, len(becomes) - others)
            rows.append(own[starts : starts + length])
            guides.append(becomes[others : others + length])
    return condensed(torch.cat(rows), torch.cat(guides))


def condensed(rows: Tensor, guides: Tensor, tolerance: float = 3e-4) -> tuple[Tensor, Tensor]:
    """Fewer pairs (r, dim) float32 with the sums C^T C and S^T C of all pairs (n, dim), up to ``tolerance``^2."""
    both = torch.cat([rows, guides], dim=1)
    energy, vectors = torch.linalg.eigh(both.T @ both)
    held = energy > tolerance**2 * energy[-1]
    pairs = energy[held].sqrt()[:, None] * vectors[:, held].T
    one, other = pairs.split(rows.shape[1], dim=1)
    return one.float().contiguous(), other.float().contiguous()


def _ends(phrases: Sequence[str], frame: str, target: Target) -> list[tuple[Tensor, int]]:
    """All rows of a prompt, and the place of the phrase's last token."""
    before = frame.partition("{}")[0]
    whole = target.rows([_tidy(frame.replace("{}", phrase)) for phrase in phrases])
    if whole.parts:
        raise RequestError(f"frames are for models with one text encoder, {target.info.model} has more; set frames=")
    starts = target.encode([_tidy(before + phrase) for phrase in phrases]).last
    return [(rows.cpu().double(), place) for rows, place in zip(whole.embeds, starts, strict=True)]


def _tidy(text: str) -> str:
    return " ".join(text.split())
