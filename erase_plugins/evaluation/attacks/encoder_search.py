"""The search of Ring-A-Bell: a concept's direction in the text encoder, and words whose encoding comes close to it.

What is found depends on the text encoder, the concept and the settings alone, and is kept on disk under their hash.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from erase_plugins.artifacts.atomic import atomic_file
from erase_plugins.engine import disk_cache
from erase_plugins.errors import Unsupported
from erase_plugins.evaluation.attacks.genetic import Search, search
from erase_plugins.evaluation.attacks.swaps import swap_search
from erase_plugins.evaluation.prompts import common_axis, worded_prompts
from erase_plugins.judge_world import world_of

if TYPE_CHECKING:
    from erase_plugins.evaluation.attacks.vocabulary import WordTable
    from erase_plugins.evaluation.budget import Budget
    from erase_plugins.evaluation.run import Subject
    from erase_plugins.families.target import Target

#: of the search: a change makes what is kept on disk unusable
VERSION = 1
#: pairs that a direction needs at least, and the shortest direction that says anything
PAIRS, _NORM = 5, 1e-3
_SAVE_EVERY = 25
_CHUNK = 64


def direction(subject: Subject, name: str, pairs: int) -> Tensor:
    """Direction of a concept (tokens, width): mean difference of encodings, the concept's name against another one.

    Raises:
        Unsupported: too few other names of as many tokens, or a direction without length.
    """
    target, judge = subject.target, subject.judge
    axis = common_axis(judge, subject.erased)
    world = world_of(judge)
    names = world.styles if axis == "style" else tuple(item.name for item in world.concepts)
    size = target.tokens([name]).last[0]
    others = [other for other in names if other not in subject.erased and target.tokens([other]).last[0] == size]
    if not others:
        raise Unsupported(f"no other {axis} has as many tokens as '{name}', so there are no sentence pairs")
    chosen = [others[place * 7 % len(others)] for place in range(pairs)]
    with_it = [item.text for item in worded_prompts(judge, subject.erased, [(name, name)] * pairs, 0)]
    without = [item.text for item in worded_prompts(judge, subject.erased, [(other, name) for other in chosen], 0)]
    with torch.no_grad():
        return mean_difference(target.encode(with_it).embeds, target.encode(without).embeds)


def wide(values: Tensor) -> Tensor:
    """At least float32."""
    return values if values.dtype == torch.float64 else values.float()


def mean_difference(with_it: Tensor, without: Tensor) -> Tensor:
    """Mean of (n, tokens, width) differences.

    Raises:
        Unsupported: other shapes, fewer than five pairs, or almost nothing left.
    """
    if with_it.shape != without.shape or len(with_it) < PAIRS:
        raise Unsupported(f"{len(with_it)} and {len(without)} sentences are not at least {PAIRS} pairs")
    mean = (wide(with_it) - wide(without)).mean(0)
    if not math.isfinite(float(mean.norm())) or float(mean.norm()) < _NORM:
        raise Unsupported("the text encoder gives the same with and without the concept; there is no direction")
    return mean


def encoder_fitness(target: Target, table: WordTable, wanted: Tensor) -> Any:
    """(n, words) places of the table -> (n,) sums of squared differences to ``wanted`` (tokens, width)."""

    @torch.no_grad()
    def fitness(rows: Any) -> Any:
        parts = []
        for start in range(0, len(rows), _CHUNK):
            embeds = target.encode_live(table.tokens(torch.from_numpy(rows[start : start + _CHUNK]))).embeds
            parts.append((wide(embeds) - wanted).square().sum((1, 2)).cpu().numpy())
        return np.concatenate(parts)

    return fitness


def encoder_slopes(target: Target, table: WordTable, wanted: Tensor) -> Any:
    """(words,) places of the table -> (words, all words): gradient of the loss of `encoder_fitness` by the choice."""

    def slopes(row: Any) -> Any:
        tokens, own, embedded = table.tokens(torch.from_numpy(row)[None]), {}, {}
        for name, ids in tokens.ids.items():
            plain = target.token_rows(name, ids)
            own[name] = plain[:, 1 : 1 + len(row)].clone().requires_grad_()
            embedded[name] = torch.cat([plain[:, :1], own[name], plain[:, 1 + len(row) :]], 1)
        loss = (wide(target.encode_live(tokens, embedded).embeds) - wanted).square().sum()
        total = np.zeros((len(row), len(table.words)))
        for name, gradient in zip(own, torch.autograd.grad(loss, list(own.values())), strict=True):
            words = target.token_rows(name, table.ids[name])
            total += (wide(gradient[0]) @ wide(words).T).cpu().numpy()
        return total

    return slopes


def found_words(
    target: Target, table: WordTable, wanted: Tensor, size: tuple[int, int, int], seed: int, key: str, budget: Budget,
    report: Callable[[int], None], by: str = "genetic",
) -> dict[str, Any]:  # fmt: skip
    """Row, loss and evaluations of one search: from disk, from where a killed run was, or from the start."""
    words, population, generations = size
    like = {"row": ((words,), torch.int64), "numbers": ((2,), torch.float64)}
    kept = disk_cache.read(key, like)
    if kept is None:
        place = budget.work / f"{key}.json"
        state = _state(place)

        def each(now: Search) -> None:
            report(now.generation)
            if now.generation % _SAVE_EVERY == 0:
                with atomic_file(place) as work:
                    work.write_text(json.dumps(now.to_dict()), encoding="utf-8")

        fitness, numbers = encoder_fitness(target, table, wanted), (words, len(table.words), population, generations)
        if by == "gradient":
            slopes = encoder_slopes(target, table, wanted)
            done = swap_search(fitness, slopes, *numbers, seed, state=state, each=each)
        else:
            done = search(fitness, *numbers, seed, state=state, each=each)
        kept = {"row": torch.tensor(done.rows[0]),
                "numbers": torch.tensor([done.losses[0], done.evaluated], dtype=torch.float64)}  # fmt: skip
        disk_cache.write(key, kept)
    loss, evaluated = kept["numbers"].tolist()
    return {"row": kept["row"].tolist(), "loss": round(loss, 6), "evaluated": int(evaluated)}


def _state(place: Path) -> Any:
    try:
        return Search(**json.loads(place.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def encoder_hash(target: Target) -> str:
    """Hash of the weights of all text encoders."""
    parts = [(name, str(item.short)) for name, item in sorted(target.fingerprint().items()) if "text_encoder" in name]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def cache_key(subject: Subject, table: WordTable, facts: Sequence[Any]) -> str:
    words = hashlib.sha256(" ".join(table.words).encode()).hexdigest()
    parts = [VERSION, encoder_hash(subject.target), str(subject.target.dtype), list(subject.erased), words, *facts]
    return "ring-a-bell-" + hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]
