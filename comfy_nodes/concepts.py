"""The text boxes: one concept a line, ``concept -> replacement``, ``#`` starts a comment where a word could begin."""

from __future__ import annotations

import re

from erase_plugins.concept_text import read_concept
from erase_plugins.errors import RequestError
from erase_plugins.types import Concept

from .wording import refusal

#: not inside of a word: the # of "C#" is its own
_COMMENT = re.compile(r"(?:^|\s)#")


def read_lines(text: str) -> list[str]:
    """Lines with content; comments and blanks left out."""
    stripped = (_COMMENT.split(line, maxsplit=1)[0].strip() for line in text.splitlines())
    return [line for line in stripped if line]


def read_concepts(text: str, kind: str = "object") -> tuple[Concept, ...]:
    """Concepts of a text box.

    Args:
        text: one concept a line, with ``->`` and a replacement where wanted.
        kind: kind of all of them.

    Raises:
        RequestError: nothing named, named twice, or a line that `read_concept` refuses.
    """
    found: dict[str, Concept] = {}
    for line in read_lines(text):
        name, guide = read_concept(line)
        if name.lower() in found:
            raise RequestError(f"'{name}' is named twice; write each concept once")
        found[name.lower()] = Concept(name, kind, anchor=guide)
    if not found:
        raise RequestError("no concept to erase; write one a line, for example: pizza -> hamburger")
    return tuple(found.values())


def read_phrases(text: str) -> tuple[str, ...]:
    """Phrases of a text box, one a line; a replacement has no place there.

    Raises:
        RequestError: an arrow, or a line that `read_concept` refuses.
    """
    read = [read_concept(line) for line in read_lines(text)]
    for name, guide in read:
        if guide is not None:
            raise RequestError(f"'{name} -> {guide}': nothing is replaced here; write '{name}' alone")
    return tuple(name for name, _ in read)


def phrase_problem(text: str) -> str | None:
    """Why a text box of phrases cannot be used; None if it can."""
    return refusal(read_phrases, text)


def concept_problem(text: str) -> str | None:
    """Why the text box cannot be used; None if it can."""
    return refusal(read_concepts, text)
