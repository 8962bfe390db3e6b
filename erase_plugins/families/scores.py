"""Scores for the tokens of texts that count, read off a model's last states a piece at a time. No torch at import.

A vocabulary of 256,000 words makes 1 MB of float32 scores a token, several times over where a loss is taken of them.
So a pass keeps the states in front of the last layer, of tokens that count only; the layer is asked for at most
`PIECE` scores at a time, and asked again on the way back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from erase_plugins.families.texts import IGNORED, Texts

if TYPE_CHECKING:
    from torch import Tensor

#: scores that are there at a time; each float32 copy of them takes 64 MiB
PIECE = 1 << 24


@dataclass(frozen=True)
class Scores:
    """Scores (m, words) for m tokens, not read off yet.

    Attributes:
        states: (m, ...) a row for every token.
        read: gives scores (k, words) of k rows.
        there: (n, tokens - 1) which labels of a batch they are for, in the order of its rows.
        words: size of the vocabulary.
    """

    states: Tensor
    read: Callable[[Tensor], Tensor]
    there: Tensor
    words: int

    @classmethod
    def of(cls, logits: Any, labels: Tensor) -> Scores:
        """Those of logits (n, tokens, words) where labels (n, tokens) count; `Scores` as they are."""
        if isinstance(logits, Scores):
            return logits
        there = labels[:, 1:] != IGNORED
        return cls(logits[:, :-1][there], lambda rows: rows, there, logits.shape[-1])

    def at(self, rows: Tensor, labels: Tensor) -> Scores:
        """Those for labels (n, tokens) of some rows, or of some more than once; the labels are some of these."""
        wanted = labels[:, 1:] != IGNORED
        numbers = self.there.flatten().cumsum(0).view(self.there.shape) - 1
        chosen = numbers[rows, : wanted.shape[1]][wanted]
        return replace(self, states=self.states[chosen.to(self.states.device)], there=wanted)

    def each(self, of: Callable[..., Tensor], *others: Any) -> Tensor:
        """(m, ...) what ``of`` makes of scores (k, words), in float32 at least, and of as many rows of ``others``.

        The last layer may be on another device than the tokens; what comes back is with the tokens.

        Args:
            of: called for a piece at a time, and again on the way back where there are several.
            others: tensors (m, ...), or `Scores` for the same tokens.
        """
        import torch
        from torch.utils.checkpoint import checkpoint

        place, parts = self.states.device, (self, *others)
        whole = [(part.states if isinstance(part, Scores) else part).to(place) for part in parts]

        def made(*given: Tensor) -> Tensor:
            return of(*(part.scored(rows) if isinstance(part, Scores) else rows
                        for part, rows in zip(parts, given, strict=True)))  # fmt: skip

        wanted = torch.is_grad_enabled() and any(part.requires_grad for part in whole)
        pieces = list(zip(*(part.split(max(PIECE // self.words, 1)) for part in whole), strict=True))
        again = partial(checkpoint, made, use_reentrant=False, preserve_rng_state=False)
        found = torch.cat([again(*piece) if wanted and len(pieces) > 1 else made(*piece) for piece in pieces])
        return found.to(self.there.device)

    def scored(self, states: Tensor) -> Tensor:
        """(k, words) scores of some states, in float32 at least; without gradients where the states have none."""
        import torch

        with torch.set_grad_enabled(torch.is_grad_enabled() and states.requires_grad):
            found = self.read(states).to(states.device)
            return found if found.element_size() > 4 else found.float()

    def costs(self, labels: Tensor) -> Tensor:
        """(n, tokens - 1) negative log-likelihood of every label (n, tokens), 0 where none is."""
        cost = self.each(cost_of, labels[:, 1:][self.there])
        return cost.new_zeros(self.there.shape).masked_scatter(self.there, cost)


def scores_of(model: Any, texts: Texts, first: int = 0) -> Scores:
    """What a model says of texts, with gradients.

    Args:
        model: a language model.
        texts: a batch.
        first: place up to which nothing counts; a common beginning so long may be read once where no gradient is asked.
    """
    from torch.nn.functional import pad

    there = texts.labels[:, 1:] != IGNORED
    states = model.language.states(texts.ids, texts.mask, pad(there, (0, 1)), first)
    return Scores(states, model.language.scored, there, model.language.words)


def scores_by_length(model: Any, texts: Texts) -> Scores:
    """The same; texts of at most half the longest one's length are asked by themselves, without all its padding."""
    import torch

    lengths = texts.mask.sum(1)
    short = 2 * lengths <= lengths.max()
    if not bool(short.any()):
        return scores_of(model, texts)
    there = texts.labels[:, 1:] != IGNORED
    numbers = there.flatten().cumsum(0).view(there.shape) - 1
    halves = [rows.nonzero()[:, 0] for rows in (short, ~short)]
    asked = [scores_by_length(model, texts[rows]) for rows in halves]
    places = torch.cat([numbers[rows][there[rows]] for rows in halves])
    states = torch.cat([part.states for part in asked])
    return replace(asked[0], states=states[places.argsort().to(states.device)], there=there)


def cost_of(scores: Tensor, wanted: Tensor) -> Tensor:
    """(k,) negative log-likelihood of ``wanted`` (k,) under scores (k, words)."""
    from torch.nn.functional import cross_entropy

    return cross_entropy(scores, wanted, reduction="none")


def divergence_of(now: Tensor, before: Tensor, temperature: float = 1.0) -> Tensor:
    """(k,) KL(before || now) of scores (k, words), both divided by the temperature."""
    from torch.nn.functional import kl_div, log_softmax

    first, second = (part.to(now.dtype) for part in (now, before))
    if temperature != 1:  # a division by 1 is a copy too
        first, second = first / temperature, second / temperature
    return kl_div(log_softmax(first, -1), log_softmax(second, -1), log_target=True, reduction="none").sum(-1)
