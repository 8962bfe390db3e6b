"""The text boxes: one concept a line, ``concept -> replacement``, ``#`` starts a comment."""

from __future__ import annotations

from erase_plugins.errors import EraseError, RequestError
from erase_plugins.types import Concept

ARROW = "->"


def read_lines(text: str) -> list[str]:
    """Lines with content; comments and blanks left out."""
    stripped = (line.split("#", 1)[0].strip() for line in text.splitlines())
    return [line for line in stripped if line]


def read_concepts(text: str, kind: str = "object") -> tuple[Concept, ...]:
    """Concepts of a text box.

    Args:
        text: one concept a line, with ``->`` and a replacement where wanted.
        kind: kind of all of them.

    Raises:
        RequestError: nothing named, named twice, an empty side, or its own replacement.
    """
    found: dict[str, Concept] = {}
    for line in read_lines(text):
        name, arrow, guide = (part.strip() for part in line.partition(ARROW))
        if not name or (arrow and not guide):
            raise RequestError(f"'{line}' is incomplete; write a concept, or: concept -> replacement")
        if name.lower() == guide.lower():
            raise RequestError(f"'{name}' would become itself; write another replacement behind ->")
        if name.lower() in found:
            raise RequestError(f"'{name}' is named twice; write each concept once")
        found[name.lower()] = Concept(name, kind, anchor=guide or None)
    if not found:
        raise RequestError("no concept to erase; write one a line, for example: pizza -> hamburger")
    return tuple(found.values())


def concept_problem(text: str) -> str | None:
    """Why the text box cannot be used; None if it can."""
    try:
        read_concepts(text)
    except EraseError as error:
        return str(error)
    return None
