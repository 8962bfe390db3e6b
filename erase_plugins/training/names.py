"""Names of several tokens that a model itself would write into a prompt in the place of a subject. No torch at import.

What stands in front of a subject says what can follow: a beam of beginnings is read on, and a name is at its end where
the model goes on with what stands behind the subject.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

from erase_plugins.families.texts import Pair, fact_of

if TYPE_CHECKING:
    from erase_plugins.families.base import Target

#: beginnings that are read on, ways in which each goes on, tokens of the longest name, names that are given
_WIDTH, _WAYS, _LONGEST, _MOST = 32, 4, 3, 16


def longer_names(
    target: Target, tokenizer: Any, wordings: Sequence[Pair], words: Collection[int], pieces: Collection[int]
) -> list[tuple[int, ...]]:  # fmt: skip
    """Names as token numbers, the likeliest in all wordings together first.

    One wording alone says little of a kind: many things have names. A name that one of them does not find counts there
    like the last one that it finds.

    Args:
        target, tokenizer: the model.
        wordings: prompts with a subject. Those that begin or end with it say nothing of their kind, and find nothing.
        words: tokens that begin a name, or a further word of one.
        pieces: tokens that go on with a word.
    """
    beams: list[dict[tuple[int, ...], float]] = []
    for pair in wordings:
        fact = fact_of(tokenizer, pair)
        own = tuple(tokenizer(f" {pair.subject}", add_special_tokens=False)["input_ids"])
        first, end = fact.last + 1 - len(own), fact.last + 1
        if first > 0 and fact.prompt[first:end] == own and end < len(fact.prompt):
            front = (*fact.start, *fact.prompt[:first])
            beams.append(_beam(target, front, fact.prompt[end], sorted(words), sorted({*words, *pieces})))
    beams = [beam for beam in beams if beam]
    sums = {
        name: sum(beam.get(name, min(beam.values())) for beam in beams) for name in dict.fromkeys(chain(*beams))
    }  # fmt: skip
    return sorted(sums, key=sums.__getitem__, reverse=True)[:_MOST]


def _beam(
    target: Target, front: tuple[int, ...], behind: int, firsts: Sequence[int], more: Sequence[int]
) -> dict[tuple[int, ...], float]:  # fmt: skip
    """Names between ``front`` and ``behind``, and the logarithm of how likely each is there."""
    import torch

    live: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    whole: list[tuple[float, tuple[int, ...]]] = []
    for length in range(_LONGEST + 1):
        ids = torch.tensor([[*front, *name] for _, name in live])
        with torch.no_grad():
            chances = target.language.logits(ids, None, ids.shape[1] - 1)[:, -1].float().log_softmax(-1).cpu()
        if length > 1:
            whole += [(chance + float(row[behind]), name) for (chance, name), row in zip(live, chances, strict=True)]
        choice = more if length else firsts
        ways, places = chances[:, choice].topk(min(_WAYS if length else _WIDTH, len(choice)))
        live = sorted((
            (chance + way, (*name, choice[place])) for (chance, name), *row in zip(live, ways, places, strict=True)
            for way, place in zip(*(part.tolist() for part in row), strict=True)
        ), reverse=True)[:_WIDTH]  # fmt: skip
    return {name: chance for chance, name in sorted(whole, reverse=True)[:_WIDTH]}
