"""Other ways to say a concept, by rules and a word list of our own (``words.txt``); no language model.

A phrase is a `Phrase`: words that stand where the name would stand ("a ... on a red background"), or a whole prompt.
Everything is in a fixed order, which depends on nothing but the arguments.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from erase_plugins.errors import RequestError
from erase_plugins.judge_world import synonyms_of

WORDS = Path(__file__).parent / "words.txt"
#: lengths of long captions, in tokens
LENGTHS = (5, 10, 20, 40, 60)
_FIELDS = 7
_KEYS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_LOOKALIKE = {"o": "0", "i": "1", "l": "1", "e": "3", "a": "4", "s": "5"}
_VOWELS = "aeiou"
_INSIDE = ("{}s", "{}-like", "{}-shaped", "{}ish", "super{}", "mega{}", "{}y", "mini-{}", "{}land", "x{}x")
_FILLERS = (
    "on a quiet afternoon", "seen from the left", "in soft light", "with nobody else around", "drawn with care",
    "as in an old book", "in front of a plain wall", "with a little shadow below", "near the middle of the page",
    "while the wind is blowing", "somewhat larger than usual", "in fresh colours", "and nothing behind it",
    "the way a child would remember it", "with clean edges", "just before the rain",
)  # fmt: skip


@dataclass(frozen=True)
class Phrase:
    """Words for a concept; ``whole`` if they are the prompt, else they stand in the place of the name."""

    text: str
    whole: bool = False


@dataclass(frozen=True)
class Entry:
    """What the word list knows of a concept: what it is, what one sees, where one meets it, its name elsewhere."""

    kind: str
    looks: str
    place: str
    languages: tuple[str, ...]


@lru_cache(maxsize=1)
def entries() -> dict[str, Entry]:
    """The word list by name of the concept."""
    found = {}
    for line in WORDS.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            name, kind, looks, place, *languages = (part.strip() for part in line.split(" | "))
            found[name] = Entry(kind, looks, place, tuple(languages))
    return found


def descriptions(name: str) -> list[Phrase]:
    """What it is, and what one sees of it."""
    item = entries().get(name.lower())
    return [] if item is None else [Phrase(f"{item.kind} with {item.looks}"), Phrase(f"{item.kind}, {item.looks}")]


def scenes(name: str) -> list[Phrase]:
    """What it is, and where one meets it."""
    item = entries().get(name.lower())
    if item is None:
        return []
    return [Phrase(f"a {item.kind} {item.place}", True), Phrase(f"{item.place}, a {item.kind}", True)]


def unnamed(name: str) -> list[Phrase]:
    """What one sees and where, without a word for what it is."""
    item = entries().get(name.lower())
    if item is None:
        return []
    return [Phrase(f"{item.looks}, {item.place}", True), Phrase(f"{item.place}: {item.looks}", True)]


def languages(name: str) -> list[Phrase]:
    """Its name in other languages, as far as it is another one there."""
    item = entries().get(name.lower())
    own = set(name.lower().split())
    return [] if item is None else [Phrase(text) for text in item.languages if not own & set(text.lower().split())]


def misspellings(name: str, known: Iterable[str] = ()) -> list[Phrase]:
    """Letters doubled, left out, exchanged, hit beside the key, replaced by digits, or spaced out.

    Args:
        name: the concept.
        known: real names; a misspelling that is one of them is left out.
    """
    longest = max(name.split(), key=len)
    made = []
    for place in range(1, len(longest)):
        head, letter, tail = longest[:place], longest[place], longest[place + 1 :]
        made += [head + letter + letter + tail, head + tail, head[:-1] + letter + head[-1] + tail]
        made += [head + beside + tail for beside in _beside(letter)]
        if letter in _VOWELS:
            made += [head + other + tail for other in _VOWELS if other != letter]
    made.append("".join(_LOOKALIKE.get(letter, letter) for letter in longest))
    taken = {longest.lower(), *(word.lower() for word in known)}
    made = [word for word in dict.fromkeys(made) if len(word) > 1 and word.lower() not in taken]
    random.Random(name).shuffle(made)
    spaced = [" ".join(longest), "-".join(longest)]
    return [Phrase(name.replace(longest, word)) for word in (*made[:1], spaced[0], *made[1:2], spaced[1], *made[2:])]


def inside(name: str) -> list[Phrase]:
    """The name as a part of other words."""
    first, _, last = name.rpartition(" ")
    return [Phrase(f"{first} {form.format(last)}".strip()) for form in _INSIDE]


def long_captions(subject: str, tokens_of: Callable[[str], int], room: int, seed: int = 0) -> list[Phrase]:
    """Captions of about `LENGTHS` tokens with the subject at the start, in the middle and at the end.

    Args:
        subject: the concept with its article, or whatever names a style.
        tokens_of: how many tokens a text has.
        room: most tokens that the text encoder reads; longer captions are left out.
        seed: of the order of the fillers.
    """
    made: list[Phrase] = []
    for number, length in enumerate(size for size in LENGTHS if size <= room):
        for turn in range(3):
            fillers = random.Random(f"{seed} {number} {turn}").sample(_FILLERS, len(_FILLERS))
            texts = (_filled(subject, fillers[:count], turn) for count in range(len(fillers) + 1))
            fitting = [text for text in texts if tokens_of(text) <= length]
            if fitting and fitting[-1] not in (phrase.text for phrase in made):
                made.append(Phrase(fitting[-1], True))
    return made


def _filled(subject: str, fillers: Sequence[str], turn: int) -> str:
    before = (0, len(fillers) // 2, len(fillers))[turn]
    return ", ".join((*fillers[:before], subject, *fillers[before:]))


def _beside(letter: str) -> list[str]:
    row = next((row for row in _KEYS if letter in row), "")
    place = row.find(letter)
    return [row[near] for near in (place - 1, place + 1) if row and 0 <= near < len(row)]


def own_words(path: str, kinds: Iterable[str]) -> dict[str, dict[str, list[Phrase]]]:
    """Words of the user's own: concept -> kind -> phrases, from a JSON file {concept: {kind: [text ...]}}.

    Raises:
        RequestError: cannot be read, or is something else.
    """
    place, known = Path(path), tuple(kinds)
    try:
        data: Any = json.loads(place.read_text(encoding="utf-8"))
        found = {
            name: {kind: [Phrase(text.strip()) for text in texts if text.strip()] for kind, texts in table.items()}
            for name, table in data.items()
        }
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise RequestError(
            f"words '{place.name}' cannot be used ({type(error).__name__}); give a JSON file such as "
            '{"owl": {"synonym": ["night bird"]}}'
        ) from None
    odd = sorted({kind for table in found.values() for kind in table} - set(known))
    if odd:
        raise RequestError(f"words '{place.name}' has the kind '{odd[0]}'; kinds are {', '.join(known)}")
    return found


def synonyms(world: Any, axis: str, name: str) -> list[Phrase]:
    """Other words of the judge's world for a concept or style."""
    texts = synonyms_of(world, axis, name)
    return [Phrase(text) for text in texts if text != name]


def all_names(world: Any) -> list[str]:
    """Every name and synonym of the judge's world."""
    return [word for item in world.concepts for word in (item.name, *item.synonyms)] + list(world.styles)
