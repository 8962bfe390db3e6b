"""What people write to name a concept: one phrase, or ``phrase -> replacement``. One rule for every box and option."""

from __future__ import annotations

import re
from collections.abc import Iterable

from erase_plugins.errors import RequestError
from erase_plugins.hints import Hint, Sentence
from erase_plugins.types import Concept

#: how several concepts are written on the command line
EACH = Sentence("each with its own ", Hint("erase"), " (in a file: one a line)")

#: arrows that people write; longer ones first
_ARROW = re.compile(r"\s*(?:[-–—]+>|=+>|[→⇒⟶⟹➔➜➡]\ufe0f?)\s*")
#: between several concepts; a comma inside a number is none
_SEPARATOR = re.compile(r"[;|；，、]|,(?!\d)|(?<!\d),")
#: a strength behind a line, as the rows of the node in ComfyUI are written
_STRENGTH = re.compile(r"\s:\s*([-+]?\d*[.]?\d+)\s*$")
_QUOTES = {'"': '"', "“": "”", "„": "“", "«": "»"}


def read_concept(text: str, each: str = "one a line") -> tuple[str, str | None]:
    """A phrase and its replacement, None where none is written.

    A side in double quotes is taken as it is. Commas and semicolons outside of quotes are refused, because they may
    separate several concepts or belong to one, and the results differ.

    Args:
        text: ``pizza``, ``pizza -> hamburger`` (``=>`` and arrow characters too), ``"Paris, Texas"``.
        each: how several concepts are written here, for the message.

    Raises:
        RequestError: an empty side, several arrows, several concepts, or a phrase that would become itself.
    """
    shown = text.strip()[:80]
    if not shown:
        raise RequestError("a concept to erase is empty; write its name, for example pizza")
    sides = [part.strip() for part in _outside(_ARROW, text.strip())]
    if len(sides) > 2:
        raise RequestError(f"'{shown}' has several arrows; write ", each, ", as in: pizza -> hamburger")
    if not all(_unquoted(side)[0] for side in sides):
        raise RequestError(f"'{shown}' is incomplete; write a concept, or: concept -> replacement")
    names = []
    for side in sides:
        name, quoted = _unquoted(side)
        if not quoted and len(parts := _outside(_SEPARATOR, side)) > 1:
            listed = ", ".join(part.strip() for part in parts if part.strip())[:80]
            raise RequestError(
                f"'{shown}' looks like several concepts ({listed}); write ",
                each,
                f', or put a phrase that belongs together in double quotes: "{side[:80]}"',
            )
        names.append(name)
    if len(names) == 2 and names[0].casefold() == names[1].casefold():
        raise RequestError(f"'{names[0]}' would become itself; write another replacement behind ->")
    return names[0], names[1] if len(names) == 2 else None


def one_phrase(text: str) -> str:
    """The text of one concept where a replacement has an argument of its own.

    Raises:
        RequestError: it holds an arrow outside of quotes, so it would be erased as one phrase that nobody writes.
    """
    sides = _outside(_ARROW, text)
    if len(sides) > 1:
        raise RequestError(f"'{text.strip()[:80]}' holds an arrow; name what it becomes apart: ", Hint("to", sides[-1]))
    return text


def concepts_from(texts: Iterable[str], kind: str = "object", to: str | None = None) -> list[Concept]:
    """Concepts of the command line.

    Args:
        texts: what stood behind ``--erase`` or on the lines of a file; the same text twice counts once.
        kind: of all of them.
        to: what those become that name no replacement themselves.

    Raises:
        RequestError: see `read_concept`; or one phrase with two replacements.
    """
    found: dict[str, Concept] = {}
    for text in texts:
        if strength := _STRENGTH.search(text):
            raise RequestError(
                f"'{text.strip()[:80]}' names a strength, which an artifact gets when it is used (",
                Hint("strength", strength[1]),
                " of generate and apply); leave it out, or put the phrase in double quotes",
            )
        name, guide = read_concept(text, EACH)
        if guide is not None and to is not None and guide != to:
            raise RequestError(
                f"'{text.strip()[:80]}' names a replacement and ", Hint("to"), " another one; leave one out"
            )
        made = Concept(name, kind, anchor=guide or to)
        if found.setdefault(name, made) != made:
            raise RequestError(f"'{name}' is named twice with different replacements; write each concept once")
    return list(found.values())


def phrases_from(texts: Iterable[str]) -> list[str]:
    """Phrases of a command that takes no replacement.

    Raises:
        RequestError: see `read_concept`; or a replacement is named.
    """
    found = concepts_from(texts)
    for item in found:
        if item.anchor is not None:
            raise RequestError(f"'{item.text} -> {item.anchor}': no replacement can be named here; write '{item.text}'")
    return [item.text for item in found]


def written(phrase: str) -> str:
    """How to write a phrase so that `read_concept` gives it back."""
    for choice in (phrase, *(f"{opening}{phrase}{closing}" for opening, closing in _QUOTES.items())):
        try:
            if read_concept(choice) == (phrase, None):
                return choice
        except RequestError:
            continue
    return phrase


def _outside(pattern: re.Pattern[str], text: str) -> list[str]:
    """Parts of a text between matches outside of quotes."""
    parts, start, place = [], 0, 0
    while place < len(text):
        end = text.find(_QUOTES[text[place]], place + 1) if text[place] in _QUOTES else -1
        if end > 0:
            place = end + 1
            continue
        found = pattern.match(text, place)
        if found is not None and found.end() > place:
            parts.append(text[start:place])
            start = place = found.end()
        else:
            place += 1
    return [*parts, text[start:]]


def _unquoted(side: str) -> tuple[str, bool]:
    """The phrase, and whether it stood in quotes as a whole."""
    if len(side) > 1 and side[0] in _QUOTES and side.find(_QUOTES[side[0]], 1) == len(side) - 1:
        return side[1:-1].strip(), True
    return side, False
