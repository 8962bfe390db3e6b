"""Words that are never kept while a concept of some kind is erased, whatever the text encoder says of their meaning.

The lists are data (``stop_words.toml``). A concept brings more of its own: ``Concept(..., extra={"stop": ["word",
"stem*"]})``. What a user names to keep is the user's choice and is not looked at here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from erase_plugins.errors import RequestError
from erase_plugins.presets import parse
from erase_plugins.types import Concept


@lru_cache(maxsize=1)
def lists() -> Mapping[str, tuple[str, ...]]:
    """Kind of concept -> words, and stems that end in ``*``."""
    path = Path(__file__).with_name("stop_words.toml")
    found = parse(path.read_text(encoding="utf-8"), path.name)
    return {kind: tuple(dict.fromkeys(text.split())) for kind, text in found.items()}


def stopped(words: Iterable[str], concepts: Sequence[Concept]) -> frozenset[str]:
    """Those of ``words`` that may not be kept while ``concepts`` are erased.

    Raises:
        RequestError: what a concept brings under ``stop`` is no list of words.
    """
    entries = {entry for concept in concepts for entry in (*lists().get(concept.kind, ()), *_own(concept))}
    if not entries:
        return frozenset()
    patterns = (re.escape(entry.removesuffix("*").casefold()) + ".*" * entry.endswith("*") for entry in entries)
    barred = re.compile("|".join(sorted(patterns)))
    return frozenset(word for word in words if barred.fullmatch(word.casefold()))


def _own(concept: Concept) -> tuple[str, ...]:
    given = concept.extra.get("stop", ())
    words = isinstance(given, list | tuple) and all(isinstance(entry, str) and entry.strip("* ") for entry in given)
    if not words:
        raise RequestError(f"'stop' of '{concept.name}' must be a list of words, such as ['word', 'stem*']")
    return tuple(entry.strip() for entry in given)
