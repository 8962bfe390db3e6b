"""Text rows that a CLIP gave lately, so that the next question about it does not encode the vocabulary again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from .solved import state_of

if TYPE_CHECKING:
    from torch import Tensor

#: more is forgotten when the next target is made
MOST_BYTES = 160 << 20
#: text encoder -> (state of the CLIP, prompt -> (rows, place of the last content token))
_KEPT: WeakKeyDictionary[Any, tuple[Any, dict[str, tuple[Tensor, int]]]] = WeakKeyDictionary()


def rows_of(clip: Any) -> dict[str, tuple[Tensor, int]]:
    """The shared memory of a CLIP; an empty one if its patches, clip skip or options are others than before.

    Args:
        clip: its encoder is compared by identity, the rest by `solved.state_of`.
    """
    state = state_of(None, clip)
    kept = _KEPT.get(clip.cond_stage_model)
    size = 0 if kept is None else sum(rows.nbytes for rows, _ in kept[1].values())
    if kept is None or kept[0] != state or size > MOST_BYTES:
        kept = _KEPT[clip.cond_stage_model] = (state, {})
    return kept[1]
