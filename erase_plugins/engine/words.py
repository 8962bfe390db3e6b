"""Real words of a text encoder: what is kept, compared and searched.

Most entries that end a word in a large tokenizer are fragments ("ing", "ers"), so words come from a list
(``words.toml``), those of it that the tokenizer knows. A small tokenizer that was made for a world of its own (the
embedded model's) says what the words of that world are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from itertools import zip_longest
from pathlib import Path

from erase_plugins.families.capabilities import CausalLM, TextEncoder
from erase_plugins.presets import parse

#: a tokenizer that knows fewer words of the list was made for other words
FEWEST = 1000
#: names: known though a tokenizer spells them in pieces, and neighbours of nothing but each other
_SPELT = "artists"


@lru_cache(maxsize=1)
def listed() -> Mapping[str, tuple[str, ...]]:
    """Kind of word -> words."""
    path = Path(__file__).with_name("words.toml")
    found = parse(path.read_text(encoding="utf-8"), path.name)
    return {kind: tuple(dict.fromkeys(text.split())) for kind, text in found.items()}


def most_words() -> int:
    """How many words there are in the list."""
    return sum(map(len, listed().values()))


def own_words(phrases: Iterable[str]) -> set[str]:
    """The words that phrases are made of, in lower case."""
    return {word for phrase in phrases for word in phrase.lower().split()}


def real_words(target: TextEncoder | CausalLM) -> tuple[str, ...]:
    """Words that the model knows: those of every kind in turn, the more common of a kind first."""
    return known_words(target.vocabulary())


def known_words(vocabulary: Iterable[str]) -> tuple[str, ...]:
    """Those of the list that are in ``vocabulary``, or all of it where it knows too few of them."""
    own = tuple(vocabulary)
    entries = set(own)
    if sum(word in entries for words in listed().values() for word in words) < FEWEST:
        return own
    columns = [[word for word in words if word in entries or kind == _SPELT] for kind, words in listed().items()]
    return tuple(dict.fromkeys(word for row in zip_longest(*columns) for word in row if word is not None))
