"""Asks a language model: how likely it finds answers, what it says itself, which tokens it would say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from erase_plugins.families.capabilities import LANGUAGE
from erase_plugins.families.texts import IGNORED, Pair, encoded, scores

#: sequences at a time
BATCH = 64
LONGEST = 512


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
        texts = encoded(model, tokenizer, pairs[start : start + BATCH], LONGEST)
        logits = model.language.logits(texts.ids, texts.mask).float()
        cost, counts = scores(logits, texts.labels)
        nll += (cost.sum(1) / counts).tolist()
        hit, there = logits[:, :-1].argmax(-1) == texts.labels[:, 1:], texts.labels[:, 1:] != IGNORED
        for row in range(len(texts)):
            logprobs.append((-cost[row][there[row]][:-1]).tolist() or (-cost[row][there[row]]).tolist())
            right.append(hit[row][there[row]][:-1].tolist() or hit[row][there[row]].tolist())
    return Seen(nll, logprobs, right)


@torch.no_grad()
def continued(
    model: Any, tokenizer: Any, prompts: Sequence[str], count: int, generator: torch.Generator | None = None
) -> list[str]:
    """What the model says next, up to its end and to ``count`` tokens.

    Args:
        model, tokenizer: whom to ask.
        prompts: texts as they are, with the token that begins a text put before them.
        count: tokens at most.
        generator: draws tokens by their probability; None takes the most likely one.
    """
    given = [list(tokenizer(text)["input_ids"]) for text in prompts]
    said, end, network = [""] * len(given), tokenizer.eos_token_id, model.network(LANGUAGE)
    groups: dict[int, list[int]] = {}
    for row, numbers in enumerate(given):  # of one length, so that no position is shifted by padding
        groups.setdefault(len(numbers), []).append(row)
    for width, rows in sorted(groups.items()):
        for start in range(0, len(rows), BATCH):
            part = rows[start : start + BATCH]
            ids = torch.tensor([given[row] for row in part], device=model.device)
            done, past, new = torch.zeros(len(part), dtype=torch.bool, device=model.device), None, ids
            for _ in range(count):
                out = network(input_ids=new, past_key_values=past, use_cache=True)
                past, logits = out.past_key_values, out.logits[:, -1].float()
                if generator is None:
                    new = logits.argmax(-1, keepdim=True)
                else:
                    new = torch.multinomial(logits.softmax(-1).cpu(), 1, generator=generator).to(ids.device)
                ids = torch.cat([ids, new], 1)
                done |= new[:, 0] == end
                if bool(done.all()):
                    break
            for row, numbers in zip(part, ids[:, width:].tolist(), strict=True):
                cut = numbers[: numbers.index(end)] if end in numbers else numbers
                said[row] = str(tokenizer.decode(cut, skip_special_tokens=True)).strip()
    return said
