"""Prompts that a training method keeps: what the user named and random words of the text encoder's vocabulary."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from erase_plugins.engine.phrases import Vocabulary, projection_gram
from erase_plugins.families.base import Target

#: the more frequent words that are drawn from
_POOL = 3000


def keep_words(
    target: Target, phrases: Sequence[str], count: int, near: float, generator: torch.Generator
) -> tuple[str, ...]:
    """``count`` random vocabulary words that mean something else than any of ``phrases``.

    Args:
        target: the model whose text encoder is asked.
        phrases: what is erased; words closer to it than ``near`` (see `Vocabulary.closeness`), and its own words, are
            left out: keeping a synonym would teach the concept back.
        count: words wanted.
        near: closeness in 0..1.
        generator: draws the words.
    """
    if count == 0:
        return ()
    table = Vocabulary.of(target, _POOL, projection_gram(target))
    own = {word for phrase in phrases for word in phrase.lower().split()}
    barred = own | set(table.near(target.encode(list(phrases)), near))
    free = [word for word in table.words if word not in barred]
    order = torch.randperm(len(free), generator=generator)[:count].tolist()
    return tuple(free[place] for place in order)
