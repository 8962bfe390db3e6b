"""What a language model says of a batch of texts, and what losses share that are made of it. No torch at import."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from erase_plugins.families.scores import Scores, divergence_of, scores_by_length
from erase_plugins.families.texts import IGNORED, Texts

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class Asked:
    """Texts and what the model says of them now.

    Attributes:
        texts: a batch.
        given: for the labels of m sequences, with gradients; logits (m, tokens, words) are taken as well.
        rows: (n,) which of those are the sequences of the batch; None: all, in their order.
        known: (m, tokens - 1) negative log-likelihood of every label of the m sequences; None: not asked yet. The batch
            may count fewer of the same labels.
    """

    texts: Texts
    given: Scores | Tensor
    rows: Tensor | None = None
    known: Tensor | None = None

    @property
    def scores(self) -> Scores:
        """For the labels of the batch."""
        found = Scores.of(self.given, self.texts.labels)
        return found if self.rows is None else found.at(self.rows, self.texts.labels)

    @cached_property
    def costs(self) -> Tensor:
        """(n, tokens - 1) negative log-likelihood of every label, 0 where none is."""
        if self.known is None or self.rows is None:
            return self.scores.costs(self.texts.labels)
        wanted = self.texts.labels[:, 1:]
        return self.known[self.rows, : wanted.shape[1]].masked_fill(wanted == IGNORED, 0.0)

    @property
    def nll(self) -> Tensor:
        """(n,) negative log-likelihood of every sequence, summed over its tokens."""
        return self.costs.sum(1)

    @property
    def counts(self) -> Tensor:
        """(n,) number of tokens that count."""
        return (self.texts.labels[:, 1:] != IGNORED).sum(1)

    @property
    def mean(self) -> Tensor:
        """Mean negative log-likelihood over all tokens of the batch."""
        return self.nll.sum() / self.counts.sum()

    @property
    def beyond(self) -> Tensor:
        """How much less likely the batch is than its bounds allow, in nat per token; 0 if no sequence is."""
        assert self.texts.bound is not None
        return ((self.nll - self.texts.bound * self.counts).clamp_min(0.0)).sum() / self.counts.sum()

    def labelled(self, texts: Texts, rows: Tensor) -> Asked:
        """The same sequences, some of them or some more than once, with fewer of their labels."""
        known = self.costs if self.rows is None or self.known is None else self.known
        given = Scores.of(self.given, self.texts.labels)
        return Asked(texts, given, rows if self.rows is None else self.rows[rows], known)

    def part(self, rows: Tensor) -> Asked:
        """Some of the sequences."""
        return self.labelled(self.texts[rows], rows)

    @property
    def rise(self) -> Tensor:
        """(n,) how much less likely than before every sequence is, in nat."""
        assert self.texts.before is not None
        return self.nll - self.texts.before


def divergence(now: Any, before: Any, labels: Tensor, temperature: float = 1.0) -> Tensor:
    """Mean KL(before || now) over the positions that predict a label; `Scores`, or logits (n, tokens, words).

    With a temperature T the logits are divided by it and the divergence is multiplied by T^2, which keeps gradients as
    large (Hinton et al., 2015, arXiv 1503.02531).
    """
    each = partial(divergence_of, temperature=temperature)
    return temperature**2 * Scores.of(now, labels).each(each, Scores.of(before, labels)).mean()


def preference(rise: Tensor, beta: float) -> Tensor:
    """-(2 / beta) mean log sigmoid(beta rise), with ``rise`` (n,) in nat."""
    from torch.nn.functional import logsigmoid

    return -2 / beta * logsigmoid(beta * rise).mean()


def ask(target: Any, texts: Texts) -> Asked:
    """What a model says of texts, in float32 at least."""
    return Asked(texts, scores_by_length(target, texts))
