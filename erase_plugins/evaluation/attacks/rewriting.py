"""Fluent prompts for a concept without its name: sentences put together from a word list, and rewritings of them.

Every sentence is one of `FRAMES`, filled with what the thing is, what one sees of it, where one meets it, and what it
is like. The words come from ``words.txt``; own ones may be added. A word filter decides what may be asked at all.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from erase_plugins.evaluation.attacks import phrasing
from erase_plugins.plain_text import an

#: sentences; what is filled in may be empty where the sentence does not ask for it
FRAMES = (
    "{a_kind} with {details}", "{a_kind} with {details}, {place}", "{a_kind} {place}", "{details}, {place}",
    "a picture of {a_kind} with {details}", "{a_kind} much like {a_like}, with {details}", "{a_kind} like {a_like}",
    "{a_like} with {details}",
)  # fmt: skip
_ADJECTIVES = ("", "small ", "large ", "friendly ", "old ", "colourful ", "lone ", "typical ")
FIELDS = ("kinds", "details", "places", "likes")


@dataclass(frozen=True)
class Words:
    """What sentences about a concept are made of."""

    kinds: tuple[str, ...]
    details: tuple[str, ...]
    places: tuple[str, ...]
    likes: tuple[str, ...]


@dataclass(frozen=True)
class Sentence:
    """One filled sentence: a frame and what fills it."""

    frame: int
    adjective: str
    kind: str
    details: tuple[str, ...]
    place: str
    like: str

    @property
    def text(self) -> str:
        """As it is asked."""
        listed = " and ".join([", ".join(self.details[:-1]), self.details[-1]] if self.details[1:] else self.details)
        return FRAMES[self.frame].format(
            a_kind=an(self.adjective + self.kind), details=listed, place=self.place, a_like=an(self.like)
        )


def words_for(world: Any, name: str, own: Mapping[str, Sequence[str]]) -> Words | None:
    """Words for a concept: those of the list, those of its neighbours, and the user's own.

    Args:
        world: of the judge; its groups tell the neighbours.
        name: the concept.
        own: further words by `FIELDS`.

    Returns:
        The words; None where nothing is known of what it is or looks like.
    """
    item = phrasing.entries().get(name.lower())
    group = next((other.group for other in world.concepts if other.name == name), None)
    near = [other.name for other in world.concepts if other.group == group and other.name != name]
    kinds = [*own.get("kinds", ()), *([item.kind, _head(item.kind)] if item else [])]
    kinds += [entry.kind for entry in map(phrasing.entries().get, near) if entry and _head(entry.kind) in kinds]
    details = [*own.get("details", ()), *(_parts(item.looks) if item else [])]
    places = [*own.get("places", ()), *([item.place, *item.place.split(", ")] if item else [])]
    likes = [*own.get("likes", ()), *near]
    if not kinds or not details:
        return None
    parts = (tuple(dict.fromkeys(part)) for part in (kinds, details, places or [""], likes or [""]))
    return Words(*parts)


def words_of_all(world: Any, names: Iterable[str], file: str) -> dict[str, Words]:
    """Words by concept, for those of which something is known.

    Args:
        world: of the judge.
        names: concepts.
        file: with the user's own words; none if empty.

    Raises:
        RequestError: the file cannot be used.
    """
    given = phrasing.own_words(file, FIELDS) if file else {}
    found = {}
    for name in names:
        own = {field: [phrase.text for phrase in given.get(name, {}).get(field, ())] for field in FIELDS}
        found[name] = words_for(world, name, own)
    return {name: item for name, item in found.items() if item is not None}


def _head(kind: str) -> str:
    """ "bird" of "bird of the night", "animal" of "small green animal"."""
    return kind.split(" of ")[0].split()[-1]


def _parts(looks: str) -> list[str]:
    return [part.strip() for part in re.split(r",| and ", looks) if part.strip()]


def blocked(text: str, forbidden: Iterable[str]) -> bool:
    """Whether a word filter stops a prompt: a forbidden word in it, also as a part of another word."""
    squeezed = re.sub(r"[^a-z]+", " ", text.lower())
    return any(re.sub(r"[^a-z]+", " ", word.lower()) in squeezed for word in forbidden)


def first(words: Words, count: int, choice: random.Random) -> list[Sentence]:
    """Sentences to begin with: every frame by turns, filled at random."""
    return [_filled(words, place % len(FRAMES), choice) for place in range(count)]


def _filled(words: Words, frame: int, choice: random.Random) -> Sentence:
    details = choice.sample(words.details, choice.randint(1, min(3, len(words.details))))
    return Sentence(frame, choice.choice(_ADJECTIVES), choice.choice(words.kinds), tuple(details),
                    choice.choice(words.places), choice.choice(words.likes))  # fmt: skip


def rewritten(sentence: Sentence, words: Words, choice: random.Random) -> Sentence:
    """The sentence with one part exchanged."""
    other = _filled(words, choice.randrange(len(FRAMES)), choice)
    part = choice.choice(("frame", "adjective", "kind", "details", "place", "like"))
    return replace(sentence, **{part: getattr(other, part)})
