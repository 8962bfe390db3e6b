"""Where a score that tells prompts with a concept from others is to be cut; for guards that are not trained."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from erase_plugins.engine.stop_words import stopped
from erase_plugins.engine.words import own_words, real_words
from erase_plugins.families.base import Target
from erase_plugins.types import Concept

#: prompts that a concept, and any other word, stands in
FRAMES = ("{}", "a {}", "a photo of a {}", "a picture of a {}", "a {} in the picture")
#: parts of the prompts with and without the concept that may fall on the wrong side
_WITH, _WITHOUT = 0.05, 0.95


def with_and_without(target: Target, concepts: Sequence[Concept], words: int) -> tuple[list[str], list[str]]:
    """Prompts with any of the concepts, and prompts with other common words; the empty prompt is among the latter."""
    phrases = [phrase for concept in concepts for phrase in (concept.text, *concept.prompts)]
    own = own_words(phrases)
    known = real_words(target)
    barred = stopped(known, concepts)
    others = [word for word in known if word not in own and word not in barred][:words]
    inside = [frame.format(phrase) for phrase in phrases for frame in FRAMES]
    return inside, ["", *(FRAMES[place % len(FRAMES)].format(word) for place, word in enumerate(others))]


def cut(inside: Tensor, outside: Tensor) -> tuple[float, bool]:
    """Midpoint between the 5 % quantile of scores with and the 95 % quantile without, and whether it parts them."""
    low, high = torch.quantile(inside.double(), _WITH), torch.quantile(outside.double(), _WITHOUT)
    return float(low + high) / 2, bool(low > high)
