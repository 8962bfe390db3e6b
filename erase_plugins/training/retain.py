"""Words that a training method holds in place: neighbours of the concept and random ones, of all the encoder knows."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from erase_plugins.engine.vocabulary import Vocabulary
from erase_plugins.engine.words import own_words
from erase_plugins.families.base import Target
from erase_plugins.types import Concept


def keep_words(
    target: Target, phrases: Sequence[str], concepts: Sequence[Concept], count: int, near: float,
    generator: torch.Generator,
) -> tuple[str, ...]:  # fmt: skip
    """``count`` vocabulary words that mean something else than any of ``phrases``: half are the closest, half random.

    The closest are what over-erasure hits first; the random ones stand for everything else.

    Args:
        target: the model whose text encoder is asked.
        phrases: what is erased; words closer to it than ``near`` (see `Vocabulary.closeness`), and its own words, are
            left out: keeping a synonym would teach the concept back.
        concepts: what is erased, as asked; the words on the stop lists of their kinds are left out.
        count: words wanted.
        near: closeness in 0..1.
        generator: draws the random half.
    """
    if count == 0:
        return ()
    table = Vocabulary.whole(target)
    own = own_words(phrases)
    cond = target.rows(list(phrases))
    closest = table.near(cond, -2.0)
    barred = own | set(table.not_kept(cond, near, concepts))
    free = [word for word in closest if word not in barred]
    half = (count + 1) // 2
    order = torch.randperm(max(len(free) - half, 0), generator=generator)[: count - half].tolist()
    return (*free[:half], *(free[half + place] for place in order))
