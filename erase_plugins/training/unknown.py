"""How unlikely is enough: texts stop to push once they are as unlikely as the same texts about somebody unknown.

A row may hold in ``unknown`` how it would read of somebody whom the model cannot know. What such a text costs the
unchanged model in nat per token is a bound: where a model would be that never saw the text. What is new in a text (the
tokens that repeat nothing before them, as an answer repeats the name in its question) has a bound of its own: a model
could hide what it knows behind a name that it stammers.

Of all such texts in the same words, in rows to forget and to retain, those few count whose tokens the model has seen
about as often as a model without the texts to forget would have seen those of the text in question: a name or a value
that only the forgotten tell of would be new to it, and what is new is not even repeated. The bound is the mean of their
costs, since what one stranger happens to cost is as much chance as what the text would. No torch at import.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from erase_plugins.engine.stopping import Stop
from erase_plugins.families.texts import IGNORED, Pair, Texts, encoded, tokenizer_of

#: texts about strangers whose mean cost is the bound of a text
STRANGERS = 3

if TYPE_CHECKING:
    from torch import Tensor

    from erase_plugins.engine.context import RunContext
    from erase_plugins.training.method import TrainingRun


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
        Every text, then what is new in every text; the bound is infinite where nobody unknown is named.
    """
    import torch

    there = [number for number, pair in enumerate(pairs) if pair.unknown is not None]
    if not there:
        return None
    chosen = alike(run, texts, pairs, kept)
    strangers = list({id(pair): pair for number in there for pair in chosen[number]}.values())
    others = encoded(run.target, tokenizer_of(run.target), strangers, run.options.max_tokens)
    both, device = parted(others), texts.ids.device
    with torch.no_grad():
        asked = [ask(both[rows]) for rows in torch.arange(len(both), device=device).split(run.options.batch)]
        each = torch.cat([part.nll / part.counts.clamp_min(1) for part in asked])
    found_at = {id(pair): place for place, pair in enumerate(strangers)}
    cost = torch.stack([
        each[[shift + found_at[id(pair)] for pair in chosen[number]]].mean()
        for shift in (0, len(strangers)) for number in there
    ])  # fmt: skip
    places = torch.tensor([*there, *(number + len(texts) for number in there)], device=device)
    bound = torch.full((2 * len(texts),), math.inf, dtype=cost.dtype, device=device)
    bound[places] = cost
    found = parted(texts)
    bound[(found.labels[:, 1:] == IGNORED).all(1)] = 0.0  # a part without a token never pushes
    run.ctx.numbers["unknown_probability"] = float((-cost[: len(there)]).exp().mean())
    run.stop = run.carried = Bounds(0.0, 1, 0, torch.zeros(2 * len(texts), device=device))
    return replace(found, bound=bound)


def parted(texts: Texts) -> Texts:
    """Every text, then what is new in every text: the same tokens with other labels."""
    import torch

    again = []
    for row in texts.ids.tolist():
        first: dict[int, int] = {}
        again.append([first.setdefault(token, place) < place for place, token in enumerate(row)])
    new = texts.labels.masked_fill(torch.tensor(again, device=texts.ids.device), IGNORED)
    ids, mask = (torch.cat([part, part]) for part in (texts.ids, texts.mask))
    return replace(texts, ids=ids, mask=mask, labels=torch.cat([texts.labels, new]))


def alike(
    run: TrainingRun, texts: Texts, pairs: Sequence[Pair], kept: tuple[Texts | None, Sequence[Pair]]
) -> dict[int, list[Pair]]:
    """For every text that has one: the texts about somebody unknown whose tokens are as rare; see the module."""
    own = {number: [pair.unknown] for number, pair in enumerate(pairs) if pair.unknown is not None}
    if kept[0] is None:
        return own
    stays = Counter(kept[0].ids[kept[0].mask.bool()].tolist())
    learned = stays + Counter(texts.ids[texts.mask.bool()].tolist())
    pool: dict[str, list[tuple[Pair, list[float]]]] = {}
    told = [pair for pair in (*pairs, *kept[1]) if pair.unknown is not None]
    read = encoded(run.target, tokenizer_of(run.target), [pair.unknown for pair in told if pair.unknown],
                   run.options.max_tokens)  # fmt: skip
    for number, pair in enumerate(told):
        assert pair.unknown is not None
        pool.setdefault(_form(pair), []).append((pair.unknown, _rarity(read.labels[number], learned)))
    found = {}
    for number in own:
        wanted = _rarity(texts.labels[number], stays)
        near = sorted(pool[_form(pairs[number])], key=lambda choice: _apart(wanted, choice[1]))
        found[number] = [pair for pair, _ in near[:STRANGERS]]
    return found


def _form(pair: Pair) -> str:
    """The prompt without whom it is about."""
    return pair.prompt.replace(pair.subject, "") if pair.subject else pair.prompt


def _rarity(labels: Tensor, seen: Mapping[int, int]) -> list[float]:
    """ln(1 + how often a token was seen) of the tokens that count, the rarest first."""
    return sorted(math.log1p(seen.get(token, 0)) for token in labels.tolist() if token != IGNORED)


def _apart(one: Sequence[float], other: Sequence[float]) -> float:
    """Sum of differences; what a shorter one lacks counts as its most frequent token."""
    top = max([*one[-1:], *other[-1:]], default=0.0)
    return sum(abs(a - b) for a, b in zip_longest(one, other, fillvalue=top))
