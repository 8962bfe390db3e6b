"""Prior concepts: what lies near a target and stays; which ones, and how much each counts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch

from erase_plugins.engine.context import RunContext
from erase_plugins.engine.vocabulary import meaning
from erase_plugins.errors import RequestError
from erase_plugins.families.base import Target
from erase_plugins.hints import Setting
from erase_plugins.training.retain import keep_words
from erase_plugins.types import Concept


def own_priors(priors: Sequence[str], phrases: Sequence[str]) -> tuple[list[str], list[str]]:
    """(priors, left out): without repetitions, and without those that contain all words of a phrase or lie in one."""
    names = [frozenset(phrase.lower().split()) for phrase in phrases]
    kept: dict[str, str] = {}
    dropped = []
    for prior in priors:
        words = frozenset(prior.lower().replace("(", " ").replace(")", " ").split())
        if not words or any(name <= words or words <= name for name in names):
            dropped.append(prior)
        else:
            kept.setdefault(" ".join(prior.lower().split()), prior.strip())
    return list(kept.values()), dropped


def chosen_priors(
    target: Target, phrases: Sequence[str], concepts: Sequence[Concept], named: Sequence[str], words: int, near: float,
    ctx: RunContext,
) -> list[str]:  # fmt: skip
    """The named priors, or ``words`` words of the vocabulary, less those that name the target.

    Args:
        target: its text encoder is asked for words.
        phrases: names of the target.
        concepts: the target, as asked.
        named: what the user named.
        words, near: see `keep_words`.
        ctx: randomness, and a note on what was left out.

    Raises:
        RequestError: none is left.
    """
    found = named or keep_words(target, phrases, concepts, words, near, ctx.generator("priors"))
    priors, dropped = own_priors(found, phrases)
    if dropped:
        ctx.note(f"not used as priors, since they name the target: {', '.join(dropped[:8])}")
    if not priors:
        raise RequestError("no prior concept is left; name some ", Setting("priors", "...", before="with"))
    return priors


def prior_scores(source: str, target: Target, phrases: Sequence[str], priors: Sequence[str]) -> list[float]:
    """How much each prior counts.

    Args:
        source: "one"; "text" for the largest similarity to a phrase in the text encoder, in 0..1; or a JSON file
            {prior: score}.
        target: encodes.
        phrases: names of the target.
        priors: what is scored.

    Raises:
        RequestError: the file is not readable, or lacks a prior.
    """
    if source == "one":
        return [1.0] * len(priors)
    if source == "text":
        concept, others = (meaning(target.encode(texts)) for texts in (phrases, priors))
        near = torch.cosine_similarity(others[:, None], concept[None], dim=-1).max(1).values
        return [float(value) for value in near.clamp(0, 1)]
    try:
        table = json.loads(Path(source).read_text(encoding="utf-8"))
        return [float(table[prior]) for prior in priors]
    except (OSError, ValueError, TypeError) as error:
        raise RequestError(f"scores={source} is not a JSON file of numbers; use one or text") from error
    except KeyError as error:
        raise RequestError(f"scores={source} has no score for the prior {error}; add it") from error
