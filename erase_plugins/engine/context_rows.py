"""Rows around a concept: other words of its prompts, the end row and padding, paired with those of a guide's prompt.

Text encoders let later rows see earlier ones, so context words carry the concept as well (MACE, section 3.1).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from erase_plugins.engine.attack import token_rows
from erase_plugins.families.base import Target


def context_rows(phrases: Sequence[str], guide: str, templates: Sequence[str], target: Target) -> tuple[Tensor, Tensor]:
    """Context rows of all phrasings and what they become, (n, dim) float32 each.

    Words before and after the concept keep their partners, then the end row and padding follow in order, as many as
    both prompts have. The concept's own rows and the start row, which all prompts share, are left out.

    Args:
        phrases: what means the concept.
        guide: what it becomes; blank leaves the rest of the template.
        templates: {} is the phrase.
        target: its text encoder is asked.
    """
    rows, guides = [], []
    for template in templates:
        for phrase in phrases:
            prompt, other = template.format(phrase), " ".join(template.format(guide).split())
            erased, becomes = target.encode([prompt]), target.encode([other])
            mine, theirs = pair_places(
                token_rows(target, prompt, phrase), erased.last[0], becomes.last[0], target.info.tokens
            )
            rows.append(erased.embeds[0, mine])
            guides.append(becomes.embeds[0, theirs])
    return torch.cat(rows).float().cpu().contiguous(), torch.cat(guides).float().cpu().contiguous()


def pair_places(own: Sequence[int], last: int, other_last: int, tokens: int) -> tuple[list[int], list[int]]:
    """Row numbers that are paired.

    Args:
        own: rows of the concept in its prompt.
        last, other_last: last content row of either prompt.
        tokens: rows of an encoded prompt.
    """
    before, after = own[0] - 1, last - own[-1]
    mine = [*range(1, own[0]), *range(own[-1] + 1, last + 1), *range(last + 1, tokens)]
    theirs = [*range(1, before + 1), *range(other_last - after + 1, other_last + 1), *range(other_last + 1, tokens)]
    count = min(len(mine), len(theirs))
    return mine[:count], theirs[:count]


def prompt_rows(phrases: Sequence[str], templates: Sequence[str], target: Target) -> Tensor:
    """All rows of a concept's prompts but the start row, (n, dim) float64, scaled so that all prompts count as one."""
    cond = target.encode([template.format(phrase) for template in templates for phrase in phrases])
    return cond.embeds[:, 1:].flatten(0, 1).cpu().double() / len(cond.prompts) ** 0.5


def gram_factor(rows: Tensor, tolerance: float = 1e-5) -> Tensor:
    """Few rows R (r, dim) with R^T R = rows^T rows, up to ``tolerance`` of the largest singular value."""
    _, values, right = torch.linalg.svd(rows.double(), full_matrices=False)
    keep = int((values > tolerance * values[0]).sum())
    return (values[:keep, None] * right[:keep]).float().contiguous()
