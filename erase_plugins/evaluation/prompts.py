"""Prompt sets of the quick suite: target, synonyms, neighbours of the same group, other kept concepts."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from erase_plugins.errors import Unsupported
from erase_plugins.hints import Hint
from erase_plugins.judge_world import concept_of, synonyms_of, world_of
from erase_plugins.plain_text import an

SETS = ("target", "synonym", "neighbour", "kept")


@dataclass(frozen=True)
class Prompt:
    """A prompt with its seed and what a judge should see; ``expected`` maps axes to labels."""

    text: str
    seed: int
    expected: Mapping[str, str]
    axis: str

    def shown(self, labels: Mapping[str, str]) -> int:
        """1 where a judge sees in its picture what it names, else 0; ``labels`` is what is seen, by axis."""
        return int(labels[self.axis] == self.expected[self.axis])


def texts_and_seeds(prompts: Iterable[Prompt]) -> tuple[list[str], list[int]]:
    """What `evaluation.run.Subject.generate` and what else draws is given, one of each per picture."""
    asked = [(item.text, item.seed) for item in prompts]
    return [text for text, _ in asked], [seed for _, seed in asked]


def find_axis(judge: Any, text: str) -> str:
    """The axis on which the judge knows ``text``.

    Raises:
        Unsupported: it does not.
    """
    for axis, labels in judge.axes.items():
        if text in labels:
            return axis
    known = ", ".join(judge.axes.get("concept", ())[:12])
    raise Unsupported(
        f"judge '{judge.id}' does not know '{text}'; it knows {known} ...; ", Hint("judge", before="give")
    )


def common_axis(judge: Any, erased: Sequence[str]) -> str:
    """The axis on which the judge knows all of them.

    Raises:
        Unsupported: it does not know one, or they are of different kinds.
    """
    axes = {find_axis(judge, text) for text in erased}
    if len(axes) > 1:
        raise Unsupported(
            f"erased concepts of different kinds ({', '.join(sorted(axes))}) need one evaluation each, of the same "
            "artifact; say which ones now with ",
            Hint("erased", "NAME"),
        )
    return axes.pop()


def quick_prompts(judge: Any, erased: Sequence[str], images: int, seed: int) -> dict[str, list[Prompt]]:
    """The four sets, ``images`` prompts each, the same for the same arguments.

    Args:
        judge: gives axes and the world of concepts.
        erased: texts of the erased concepts or styles, all on one axis.
        images: pictures per set.
        seed: first seed; every picture has its own.

    Raises:
        Unsupported: the judge does not know a concept, or they are of different kinds.
    """
    builder = _Builder(world_of(judge), list(erased), common_axis(judge, erased), random.Random(seed))
    makers = {
        "target": builder.target, "synonym": builder.synonyms, "neighbour": builder.neighbours, "kept": builder.kept
    }  # fmt: skip
    sets: dict[str, list[Prompt]] = {}
    for number, name in enumerate(SETS):
        cells = makers[name]()
        rows = [cells[index % len(cells)] for index in range(images)] if cells else []
        sets[name] = [
            builder.prompt(index, word, label, seed * 100_003 + number * 10_007 + index)
            for index, (word, label) in enumerate(rows)
        ]
    return sets


def worded_prompts(judge: Any, erased: Sequence[str], cells: Sequence[tuple[str, str]], seed: int) -> list[Prompt]:
    """One prompt for each (words in the prompt, label to look for), phrased and seeded by its place in the list.

    Raises:
        Unsupported: as `quick_prompts`.
    """
    axis = common_axis(judge, erased)
    builder = _Builder(world_of(judge), list(erased), axis, random.Random(seed))
    return [
        builder.prompt(index, word, label, seed * 100_003 + len(SETS) * 10_007 + index)
        for index, (word, label) in enumerate(cells)
    ]


def synonyms_asked(judge: Any, erased: Sequence[str]) -> list[str]:
    """The words that the set of synonyms of `quick_prompts` is about."""
    axis = common_axis(judge, erased)
    return [word for text in erased for word in synonyms_of(world_of(judge), axis, text)]


class _Builder:
    """Lists of (word in the prompt, label to look for) on the axis of the erased concepts."""

    def __init__(self, world: Any, erased: list[str], axis: str, random_: random.Random) -> None:
        self.world, self.erased, self.axis, self.random = world, erased, axis, random_
        self.names = [item.name for item in world.concepts]
        if axis not in ("concept", "style"):
            raise Unsupported(f"the quick suite measures erased concepts and styles, not {an(axis)}")

    def _shuffled(self, cells: list[tuple[str, str]]) -> list[tuple[str, str]]:
        self.random.shuffle(cells)
        return cells

    def target(self) -> list[tuple[str, str]]:
        return [(text, text) for text in self.erased]

    def synonyms(self) -> list[tuple[str, str]]:
        return [(word, text) for text in self.erased for word in synonyms_of(self.world, self.axis, text)]

    def neighbours(self) -> list[tuple[str, str]]:
        if self.axis == "style":
            return [(text, text) for text in self.world.styles if text not in self.erased]
        groups = {concept_of(self.world, text).group for text in self.erased}
        cells = [(item.name, item.name) for item in self.world.concepts if item.group in groups]
        return self._shuffled([cell for cell in cells if cell[0] not in self.erased])

    def kept(self) -> list[tuple[str, str]]:
        if self.axis == "style":
            return self._shuffled([(name, name) for name in self.names])
        groups = {concept_of(self.world, text).group for text in self.erased}
        cells = [(item.name, item.name) for item in self.world.concepts if item.group not in groups]
        return self._shuffled(cells or [(name, name) for name in self.names if name not in self.erased])

    def prompt(self, index: int, word: str, label: str, seed: int) -> Prompt:
        """Four phrasings in turn: bare, with background, with style, with both; what the world lacks is left out."""
        styles = [item for item in self.world.styles if item not in self.erased]
        seen = {"background": item} if index % 2 and (item := _turn(self.world.backgrounds, index)) else {}
        behind = f" on a {seen['background']} background" if seen else ""
        if self.axis == "style" and label in self.world.styles:
            subject = {"concept": item} if (item := _turn(self.names, index * 7)) else {}
            text = f"a {word} {subject.get('concept', 'picture')}{behind}"
            return Prompt(text, seed, {"style": label} | subject | seen, "style")
        styled = {"style": item} if index % 4 >= 2 and (item := _turn(styles, index)) else {}
        text = f"a {styled['style'] + ' ' if styled else ''}{word}{behind}"
        return Prompt(text, seed, {"concept": label} | styled | seen, "concept")


def _turn(names: Sequence[str], index: int) -> str:
    """One name after the other; empty for a world that has none of this kind."""
    return names[index % len(names)] if names else ""


def prompts_hash(sets: Mapping[str, Sequence[Prompt]]) -> str:
    """Hash of all texts and seeds."""
    plain = {name: [[item.text, item.seed] for item in items] for name, items in sets.items()}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]
