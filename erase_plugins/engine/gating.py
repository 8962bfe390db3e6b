"""Gates made for concepts: which prompts mean a concept, told from their embeddings, and which name it.

The measure "probe" is a ridge regression on the mean embedding row of a prompt, the start row left out. Positive
examples are short phrasings of the concept and of vocabulary words that mean the same, negative ones those of all other
words; the words around them are frequent ones (text encoders number their tokens by frequency).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from erase_plugins.artifacts.edit import AddOn
from erase_plugins.artifacts.gated import gate_addon, vocabulary_mark
from erase_plugins.engine.context import RunContext
from erase_plugins.engine.vocabulary import Vocabulary, projection_gram, search_tail, words_to_encode
from erase_plugins.families.base import Conditioning, Target, TargetInfo
from erase_plugins.types import Concept

#: phrasings of the examples; the subject takes a random place, frequent words the others
_FRAMES = (
    "{}", "a {}", "a {} picture", "a {} {}", "a {} on a {} background", "a {} {} on a {} background", "{} {}",
    "{} and {}", "a {} and a {}",
)  # fmt: skip
_FREQUENT = 60
_POSITIVES, _FEWEST = 400, 60
#: weight of all positive examples together, relative to the negative ones
_BALANCE = 0.3
_RIDGE = 1e-2
#: prompts that are encoded together, and values of their rows (half a gigabyte in float32)
_BATCH, _VALUES = 256, 1 << 27
#: what a word is stripped of, and words that name nothing
_MARKS = ".,;:!?\"'()[]"
_GRAMMAR = frozenset(
    ("a", "an", "the", "of", "in", "on", "at", "by", "to", "for", "from", "with", "and", "or", "is", "are", "as")
)


@dataclass(frozen=True)
class GateRecipe:
    """How gates are made.

    Attributes:
        measure: "probe" or "cosine" (of flattened embeddings, the published one).
        words: vocabulary words that a probe learns from.
        near: closeness from which a vocabulary word means the same as a concept.
        low, high: scores at which a gate begins to open and is fully open.
    """

    measure: str
    words: int
    near: float
    low: float
    high: float


def phrasings(info: TargetInfo, concepts: int, words: int) -> int:
    """Prompts that are encoded for probes of so many concepts, about."""
    searched = words_to_encode(info, words, tail=search_tail(info), search=True)
    return max(searched, words) + 2 * words + concepts * (_POSITIVES + 2)  # the words themselves are encoded once


def make_gate(
    target: Target, concepts: Sequence[str], phrases: Sequence[Sequence[str]], erased: Sequence[Concept],
    recipe: GateRecipe, ctx: RunContext,
) -> AddOn:  # fmt: skip
    """One gate per concept.

    Args:
        target: its text encoder is asked.
        concepts: texts of the concepts.
        phrases: for each concept the phrases that mean it.
        erased: the concepts as asked; a probe does not learn to stay shut for words on the stop lists of their kinds.
        recipe: how.
        ctx: randomness, cancel, notes.
    """
    tokenizer, window = vocabulary_mark(target.vocabulary()), target.encode([""]).embeds.shape[1]
    if recipe.measure == "cosine":
        names = [words_of(target, group) for group in phrases]
        rows = [target.encode(list(group)).embeds.float().cpu() for group in phrases]
        numbers = [number for number, group in enumerate(phrases) for _ in group]
        return gate_addon(
            torch.cat(rows), concepts, numbers, "cosine", window, low=recipe.low, high=recipe.high,
            names=names, tokenizer=tokenizer,
        )  # fmt: skip
    table = Vocabulary.of(target, recipe.words, projection_gram(target), tail=search_tail(target.info), search=True)
    others = _Others(target, table, ctx)
    found = [others.detector(group, recipe.near, erased) for group in phrases]
    rows = [torch.stack([row for row, _, _ in found])[:, None].float()]
    offsets = [offset for _, offset, _ in found]
    names = [words_of(target, [*group, *same]) for group, (_, _, same) in zip(phrases, found, strict=True)]
    return gate_addon(
        rows[0], concepts, range(len(found)), "probe", window, low=recipe.low, high=recipe.high,
        offsets=offsets, names=names, tokenizer=tokenizer,
    )  # fmt: skip


def words_of(target: Target, phrases: Sequence[str]) -> list[list[list[int]]]:
    """Token numbers of every word of every phrase, by the first tokenizer; words of grammar only where nothing else is.

    A phrase with a word that the tokenizer cannot tell is left out. None is left where that tokenizer's encoder makes
    no rows of the context (FLUX), by which a prompt is found again.
    """
    found: list[list[list[int]]] = []
    if not target.family.clip_rows:
        return found
    for phrase in phrases:
        words = [word.strip(_MARKS) for word in phrase.lower().split()]
        words = [word for word in words if word and word not in _GRAMMAR] or [word for word in words if word]
        if not words:
            continue
        tokens = target.tokens(words)
        rows = tokens.ids[min(tokens.ids)].tolist()
        numbers = [row[1 : last + 1] for row, last in zip(rows, tokens.last, strict=True)]
        if all(numbers) and numbers not in found:
            found.append(numbers)
    return found


def mean_row(cond: Conditioning) -> Tensor:
    """What a probe sees of a prompt: its mean row without the start row, (prompts, dim) float64."""
    return cond.embeds[:, 1:].cpu().double().mean(1)


class _Others:
    """Phrasings of every vocabulary word, encoded once for all concepts."""

    def __init__(self, target: Target, table: Vocabulary, ctx: RunContext) -> None:
        self.target, self.table, self.ctx = target, table, ctx
        self.random = random.Random(int(torch.randint(2**31, (1,), generator=ctx.generator("gate examples"))))
        words = list(table.words)
        self.parts: list[tuple[str, ...]] = [("",), *((word,) for word in words)]
        prompts = ["", *words]
        for word in words * 2:
            prompt, parts = self.phrase(word, words[:_FREQUENT])
            prompts.append(prompt)
            self.parts.append(parts)
        self.rows = self._encoded(prompts)

    def phrase(self, subject: str, frequent: Sequence[str]) -> tuple[str, tuple[str, ...]]:
        """A phrasing of ``subject`` and the words in it."""
        frame = self.random.choice(_FRAMES)
        parts = [self.random.choice(frequent) for _ in range(frame.count("{}"))]
        parts[self.random.randrange(len(parts))] = subject
        return frame.format(*parts), tuple(parts)

    def _encoded(self, prompts: Sequence[str]) -> Tensor:
        rows = []
        info = self.target.info
        # each is looked at once: rows of all would take a gigabyte of SDXL's, and ten of T5's
        batch = max(min(_BATCH, _VALUES // ((info.tokens + sum(info.family.padding(info))) * info.width)), 1)
        for start in range(0, len(prompts), batch):
            with self.target.passing():
                rows.append(mean_row(self.target.encode(list(prompts[start : start + batch]))))
            self.ctx.step(0, 1)
        return torch.cat(rows)

    def detector(
        self, phrases: Sequence[str], near: float, erased: Sequence[Concept]
    ) -> tuple[Tensor, float, list[str]]:
        """Row (dim,) and offset: about 1 for prompts that mean one of ``phrases``, about 0 for others; and words that
        mean the same."""
        cond = self.target.rows(list(phrases))
        same = [word for word in self.table.near(cond, near) if word not in phrases]
        barred = {
            *self.table.not_kept(cond, near, erased),
            *phrases,
            *(word for phrase in phrases for word in phrase.lower().split()),
        }
        free = [word for word in self.table.words[: _FREQUENT + len(barred)] if word not in barred]
        subjects = [*phrases, *same]
        many = max(_POSITIVES // len(subjects), _FEWEST)
        texts = [self.phrase(subject, free)[0] for subject in subjects for _ in range(many)]
        positive = self._encoded([*subjects, *texts])
        negative = self.rows[[place for place, parts in enumerate(self.parts) if not barred & set(parts)]]
        middle = negative.mean(0)
        away, towards = negative - middle, positive - middle
        weight = _BALANCE * len(negative) / len(positive)
        size = away.shape[1]
        ridge = 2 * _RIDGE * away.square().sum() / size * torch.eye(size, dtype=torch.float64)
        row = torch.linalg.solve(away.T @ away + weight * towards.T @ towards + ridge, weight * towards.sum(0))
        return row, -float(middle @ row), same
