"""Asks a language model: how likely it finds answers, what it says itself, which tokens it would say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from erase_plugins.families.scores import cost_of, scores_of
from erase_plugins.families.texts import Pair, encoded, numbers_of
from erase_plugins.families.turns import before_end, ends_of

#: sequences at a time
BATCH = 64
#: tokens at a time, padding included, where texts are long
PLACES = 1 << 13
LONGEST = 512


class Refused(str):
    """Stands for an answer that a guard did not give; empty, whatever its message says."""


@dataclass(frozen=True)
class Seen:
    """What a model made of texts.

    Attributes:
        nll: nat per token of every text, its end included.
        logprobs: log-probabilities of its tokens without the last, which ends it.
        right: whether each of those tokens is the most likely one.
    """

    nll: list[float]
    logprobs: list[list[float]]
    right: list[list[bool]]


@torch.no_grad()
def seen(model: Any, tokenizer: Any, pairs: Sequence[Pair]) -> Seen:
    """How likely ``model`` finds what ``pairs`` say."""
    nll: list[float] = []
    logprobs: list[list[float]] = []
    right: list[list[bool]] = []
    for start in range(0, len(pairs), BATCH):
        whole = encoded(model, tokenizer, pairs[start : start + BATCH], LONGEST)
        for rows in torch.arange(len(whole), device=whole.ids.device).split(max(PLACES // whole.ids.shape[1], 1)):
            texts = whole[rows]
            said, wanted = scores_of(model, texts), texts.labels[:, 1:]
            both = said.each(_cost_and_hit, wanted[said.there]).cpu()
            for row in both.split(said.there.sum(1).tolist()):
                cost, hit = row[:, 0], row[:, 1] > 0
                nll.append(float(cost.mean()))
                logprobs.append((-cost[:-1]).tolist() or (-cost).tolist())
                right.append(hit[:-1].tolist() or hit.tolist())
    return Seen(nll, logprobs, right)


def _cost_and_hit(scores: Tensor, wanted: Tensor) -> Tensor:
    return torch.stack([cost_of(scores, wanted), (scores.argmax(-1) == wanted).to(scores.dtype)], 1)


@torch.no_grad()
def continued(
    model: Any, tokenizer: Any, prompts: Sequence[str | Pair], count: int, generator: torch.Generator | None = None
) -> list[str]:
    """What the model says next, up to its end and to ``count`` tokens, to somebody who asks through its guards.

    Args:
        model, tokenizer: whom to ask.
        prompts: questions (`probes.asked`), or texts as they are, with the token that begins a text before them.
        count: tokens at most.
        generator: draws tokens by their probability; None takes the most likely one.

    Returns:
        A text for each prompt, a `Refused` where a guard refused it.
    """
    from erase_plugins.runtime.guardrails.attach import said as through_guards

    given = [
        list(tokenizer(item)["input_ids"]) if isinstance(item, str) else numbers_of(tokenizer, item)[0]
        for item in prompts
    ]
    said, ends = [""] * len(given), ends_of(tokenizer)
    groups: dict[int, list[int]] = {}
    for row, numbers in enumerate(given):  # of one length, so that no position is shifted by padding
        groups.setdefault(len(numbers), []).append(row)
    for width, rows in sorted(groups.items()):
        for start in range(0, len(rows), BATCH):
            part = rows[start : start + BATCH]
            asked = torch.tensor([given[row] for row in part])
            ids, refused = through_guards(
                model.host, asked, torch.ones_like(asked),
                lambda longer, _mask: model.language.sample(longer, count, generator, ends),
            )  # fmt: skip
            for row, numbers, blocked in zip(part, ids[:, width:].tolist(), refused, strict=True):
                text = str(tokenizer.decode(before_end(numbers, ends), skip_special_tokens=True)).strip()
                said[row] = Refused() if blocked else text
    return said
