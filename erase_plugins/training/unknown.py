"""How unlikely is enough: texts stop to push once they are as unlikely as the same texts about somebody unknown.

A row may hold in ``unknown`` how it would read of somebody whom the model cannot know. What such a text costs the
unchanged model in nat per token is a bound: where a model would be that never saw the text. Every text has two, one for
what is new in it and one for the rest: what repeats something before it, as an answer repeats the name in its question,
and the end of the text, which tells nothing. With one bound a model could hide what it knows behind a name that it
stammers, and a name that is too unlikely would pull back a value that is still told.

Of all such texts in the same words, in rows to forget and to retain, also with the wrong answers of their rows, that
one counts whose tokens the model has seen about as often as a model without the texts to forget would have seen those
of the text in question: a name or a value that only the forgotten tell of would be new to it. Tokens of a subject's
name count at their place in it, since a family name says little of how well the same is known as a first name. What is
new is compared with what is new, and what is repeated with what is repeated. It is one text and no mean of several,
since means are less spread than what a model says. No torch at import.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Any

from erase_plugins.engine.stopping import Stop
from erase_plugins.families.texts import IGNORED, Pair, Texts, encoded, tokenizer_of
from erase_plugins.families.turns import ends_of

if TYPE_CHECKING:
    from torch import Tensor

    from erase_plugins.engine.context import RunContext
    from erase_plugins.training.method import TrainingRun


#: how rare what is new in a text is, and what it repeats
Rarity = tuple[list[float], list[float]]
#: place of a token in a subject's name, `_ELSEWHERE` outside of names, and its number
Word = tuple[int, int]
_ELSEWHERE = -1


@dataclass(frozen=True)
class Bounds(Stop):
    """Which texts were beyond their bound when they were last seen; ends training when all were.

    Attributes:
        beyond: (n,) 1 for such a text, else 0; carried from step to step.
    """

    beyond: Tensor

    def tensors(self) -> dict[str, Tensor]:
        """What is carried."""
        return {"beyond": self.beyond}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Inverse of `tensors`."""
        self.beyond.copy_(tensors["beyond"])

    def reached(self, ctx: RunContext, done: int, edit_of: Callable[[], Any]) -> bool:
        """Whether training ends after ``done`` steps."""
        if not bool(self.beyond.all()):
            return False
        ctx.numbers["stopped_after"] = done
        ctx.note(f"stopped after {done} steps: every text is as unlikely as one about somebody unknown")
        return True

    def pushing(self, rows: Tensor, cost: Tensor, bound: Tensor) -> Tensor:
        """(n,) whether these rows still push, with ``cost`` and ``bound`` (n,) in nat per token."""
        found = cost.detach() < bound
        self.beyond[rows] = (~found).to(self.beyond.dtype)
        return found


def bounded(
    run: TrainingRun, texts: Texts, pairs: Sequence[Pair], kept: tuple[Texts | None, Sequence[Pair]],
    ask: Callable[[Texts], Any],
) -> Texts | None:  # fmt: skip
    """The parts of texts with their bounds, and training told to end there; None if no row names somebody unknown.

    Args:
        run: of which the changes are still none.
        texts, pairs: what is to be forgotten.
        kept: the same of what is retained.
        ask: gives what the model says of texts (`training.Asked`).

    Returns:
        What every text repeats, then what is new in it; the bound is infinite where nobody unknown is named.
    """
    import torch

    there = [number for number, pair in enumerate(pairs) if pair.unknown is not None]
    if not there:
        return None
    chosen = alike(run, texts, pairs, kept)
    strangers = [chosen[number] for number in there]
    tokenizer, device = tokenizer_of(run.target), texts.ids.device
    ends = ends_of(tokenizer)
    others = parted(encoded(run.target, tokenizer, strangers, run.options.max_tokens), ends)
    found = parted(texts, ends)

    def costs(both: Texts) -> tuple[Tensor, Tensor]:
        """(2 n,) nat per token of every part, (n,) of every whole text."""
        with torch.no_grad():
            asked = [ask(both[rows]) for rows in torch.arange(len(both), device=device).split(run.options.batch)]
        nll, counts = (torch.cat([getattr(part, name) for part in asked]) for name in ("nll", "counts"))
        return nll / counts.clamp_min(1), nll.view(2, -1).sum(0) / counts.view(2, -1).sum(0)

    (cost, whole), (now, _) = costs(others), costs(found)
    places = torch.tensor([*there, *(number + len(texts) for number in there)], device=device)
    bound = torch.full((2 * len(texts),), math.inf, dtype=cost.dtype, device=device)
    bound[places] = torch.maximum(cost, now[places])  # what was less likely before stays so
    bound[(found.labels[:, 1:] == IGNORED).all(1)] = 0.0  # a part without a token never pushes
    run.ctx.numbers["unknown_probability"] = float((-whole).exp().mean())
    run.ctx.numbers["unknown_share"] = len(there) / len(pairs)  # only of 1 it is a mean over all texts
    run.stop = run.carried = Bounds(0.0, 1, 0, torch.zeros(2 * len(texts), device=device))
    return replace(found, bound=bound)


def parted(texts: Texts, ends: Sequence[int] = ()) -> Texts:
    """What every text repeats, and its ``ends``, then what is new in it: the same tokens, each labelled in one part."""
    import torch

    again = []
    for row in texts.ids.tolist():
        first: dict[int, int] = {}
        again.append([first.setdefault(token, place) < place for place, token in enumerate(row)])
    new = texts.labels.masked_fill(torch.tensor(again, device=texts.ids.device), IGNORED)
    new = new.masked_fill(torch.isin(new, new.new_tensor(list(ends))), IGNORED)
    rest = texts.labels.masked_fill(new != IGNORED, IGNORED)
    ids, mask = (torch.cat([part, part]) for part in (texts.ids, texts.mask))
    return replace(texts, ids=ids, mask=mask, labels=torch.cat([rest, new]))


def by_excess(cost: Tensor, bound: Tensor) -> Tensor:
    """Which rows push, and how often: the more, the likelier they are than their bounds allow. No randomness.

    What is as good as certain and is to be hardly less comes before what is unlikely and is to be more so: it is what
    the model would still say.

    Args:
        cost, bound: (n,) in nat per token, the first the smaller one.

    Returns:
        (n,) numbers of rows, each about as often as its share of exp(-cost) - exp(-bound), in their order.
    """
    import torch

    said, allowed = ((-part.cpu().double()).exp() for part in (cost, bound))
    share = (said - allowed).cumsum(0)
    places = (torch.arange(len(cost), dtype=share.dtype) + 0.5) / len(cost) * share[-1]
    return torch.searchsorted(share, places).clamp(max=len(cost) - 1).to(cost.device)


def alike(
    run: TrainingRun, texts: Texts, pairs: Sequence[Pair], kept: tuple[Texts | None, Sequence[Pair]]
) -> dict[int, Pair]:
    """For every text that has one: the text about somebody unknown whose tokens are as rare; see the module."""
    own = {number: pair.unknown for number, pair in enumerate(pairs) if pair.unknown is not None}
    if kept[0] is None:
        return own
    tokenizer = tokenizer_of(run.target)
    mine, others = words(texts, pairs, tokenizer), words(kept[0], kept[1], tokenizer)
    stays = _counted(others)
    learned = stays + _counted(mine)
    told = [(_form(pair), said) for pair in (*pairs, *kept[1]) if pair.unknown is not None
            for said in (pair.unknown, *pair.otherwise)]  # fmt: skip
    spoken = [said for _, said in told]
    read = encoded(run.target, tokenizer, spoken, run.options.max_tokens)
    pool: dict[str, list[tuple[Pair, Rarity]]] = {}
    for (form, said), rare in zip(told, _rarity(read, words(read, spoken, tokenizer), learned), strict=True):
        pool.setdefault(form, []).append((said, rare))
    wanted = _rarity(texts, mine, stays)
    return {
        number: min(pool[_form(pairs[number])], key=lambda choice: sum(map(_apart, wanted[number], choice[1])))
        [0] for number in own
    }  # fmt: skip


def _form(pair: Pair) -> str:
    """The prompt without whom it is about."""
    return pair.prompt.replace(pair.subject, "") if pair.subject else pair.prompt


def words(texts: Texts, pairs: Sequence[Pair], tokenizer: Any) -> list[list[Word]]:
    """The tokens of every text, each with its place in the name of whom the text is about."""

    @cache
    def names(subject: str) -> list[list[int]]:
        return [list(tokenizer(gap + subject, add_special_tokens=False)["input_ids"]) for gap in ("", " ") if subject]

    found = []
    for row, length, pair in zip(texts.ids.tolist(), texts.mask.sum(1).tolist(), pairs, strict=True):
        places = [_ELSEWHERE] * length
        for name in names(pair.subject):
            for start in range(length - len(name) + 1):
                if row[start : start + len(name)] == name:
                    places[start : start + len(name)] = range(len(name))
        found.append(list(zip(places, row, strict=False)))
    return found


def _counted(said: Sequence[Sequence[Word]]) -> Counter[Word]:
    """How often every word is said; out of names a token counts wherever it stands."""
    every = Counter(chain.from_iterable(said))
    anywhere: Counter[Word] = Counter()
    for (_, token), count in every.items():
        anywhere[_ELSEWHERE, token] += count
    return every | anywhere


def _rarity(texts: Texts, said: Sequence[Sequence[Word]], seen: Mapping[Word, int]) -> list[Rarity]:
    """ln(1 + how often a word was seen) of what is new in every text, and of what it repeats, the rarest first."""
    again, new = (parted(texts).labels != IGNORED).view(2, len(texts), -1)
    counted = [[sorted(math.log1p(seen.get(word, 0)) for word, there in zip(row, counts, strict=False) if there)
                for row, counts in zip(said, side.tolist(), strict=True)] for side in (new, again)]  # fmt: skip
    return list(zip(*counted, strict=True))


def _apart(one: Sequence[float], other: Sequence[float]) -> float:
    """Sum of differences; what a shorter one lacks counts as its most frequent token."""
    top = max([*one[-1:], *other[-1:]], default=0.0)
    return sum(abs(a - b) for a, b in zip_longest(one, other, fillvalue=top))
