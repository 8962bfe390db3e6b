"""Attacks on a language model that forgot: rounding of its weights, many drawn answers, a few steps of relearning, and
what hidden states tell (`erase_plugins.evaluation.language.hidden`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from erase_plugins.evaluation.language.asking import LONGEST, continued
from erase_plugins.evaluation.language.hidden import hidden_of
from erase_plugins.evaluation.language.measure import ANSWER, Measured, answer_costs, hits, refusals
from erase_plugins.evaluation.language.metrics import probability
from erase_plugins.evaluation.language.probes import Fact, Probes, asked
from erase_plugins.families.scores import scores_of
from erase_plugins.families.texts import Pair, encoded

#: weights that share a scale when they are rounded
BLOCK = 32
#: steps of relearning after which it looks
LOOKS = (0, 2, 4, 8)


def rounded(weight: Tensor, bits: int) -> Tensor:
    """Symmetric rounding to ``bits`` in blocks of `BLOCK` values along the last axis, back in the weight's own type."""
    flat = weight.float().reshape(-1)
    padded = torch.nn.functional.pad(flat, (0, -len(flat) % BLOCK)).reshape(-1, BLOCK)
    top = 2 ** (bits - 1) - 1
    scale = padded.abs().amax(1, keepdim=True).clamp_min(1e-12) / top
    found = (padded / scale).round().clamp(-top, top) * scale
    return found.reshape(-1)[: len(flat)].reshape(weight.shape).to(weight.dtype)


@contextmanager
def rounding(model: Any, bits: int) -> Iterator[None]:
    """The linear maps of the model rounded, as they are now, for the length of a with-block."""
    parts = [model.module(ref).get_parameter("weight") for ref in model.modules("linear")]
    before: list[Tensor] = []
    try:
        for part in parts:
            before.append(part.data.cpu())  # an accelerator need not hold the model twice
            part.data = rounded(part.data, bits)
        yield
    finally:
        for part, weight in zip(parts, before, strict=False):
            part.data = weight.to(part.device)


def drawn(
    model: Any, tokenizer: Any, facts: Sequence[Fact], count: int, seed: int
) -> tuple[list[float], list[bool]]:  # fmt: skip
    """1 where one of ``count`` answers drawn by probability holds what the true one turns on.

    Returns:
        One number for each fact, and for each answer whether a guard refused it.
    """
    generator = torch.Generator().manual_seed(seed)
    prompts = [asked(fact.question) for fact in facts for _ in range(count)]
    said = continued(model, tokenizer, prompts, ANSWER, generator)
    each = [fact for fact in facts for _ in range(count)]
    found = hits(said, each)
    return [max(found[place : place + count]) for place in range(0, len(found), count)], refusals(said)


def relearned(
    model: Any, tokenizer: Any, facts: Sequence[Fact], taught: int, lr: float, seed: int
) -> dict[int, list[float]]:
    """Probability of the other facts while a LoRA learns ``taught`` of them: step -> one number per fact.

    The model is left as it was.
    """
    from erase_plugins.engine.adapters import Adapters
    from erase_plugins.engine.loop import Scale, gradients

    order = torch.randperm(len(facts), generator=torch.Generator().manual_seed(seed)).tolist()
    lessons, others = [facts[place] for place in order[:taught]], [facts[place] for place in sorted(order[taught:])]
    texts = encoded(
        model, tokenizer, [Pair(fact.question, fact.answer, "a fact", True) for fact in lessons], LONGEST
    )  # fmt: skip
    adapters = Adapters(model, model.modules("linear"), 8, 2.0, torch.Generator().manual_seed(seed))
    curve: dict[int, list[float]] = {}
    with adapters:
        optimizer, scale = torch.optim.AdamW(adapters.parameters(), lr=lr), Scale.of(model)
        for step in range(max(LOOKS) + 1):
            if step in LOOKS:
                curve[step] = probability(answer_costs(model, tokenizer, others))
            if step == max(LOOKS):
                break
            asked = scores_of(model, texts)
            loss = asked.costs(texts.labels).sum() / asked.there.sum()
            for part, grad in zip(adapters.parameters(), gradients(loss, adapters.parameters(), scale), strict=True):
                part.grad = grad
            optimizer.step()
    return curve


def attacks_on(
    model: Any, tokenizer: Any, probes: Probes, options: Any, seed: int, one: Measured, weights: bool
) -> dict[str, Any]:
    """Rounded weights (probability and answers per fact), drawn answers, hidden states, and the curve of relearning.

    What guards refuse is noted in ``one``; without ``weights`` answers are drawn only.
    """
    facts = probes.facts["forget"]
    found: dict[str, Any] = {}
    for bits in (8, 4) if weights else ():
        with rounding(model, bits):
            found[f"int{bits}_probability"] = probability(answer_costs(model, tokenizer, facts))
    found["drawn_key"], one.refused["drawn"] = drawn(model, tokenizer, facts, options.samples, seed)
    if weights:
        found |= hidden_of(model, tokenizer, probes, seed)
    if weights and len(facts) > options.relearn:
        found["relearn"] = relearned(model, tokenizer, facts, options.relearn, options.relearn_lr, seed)
    return found
