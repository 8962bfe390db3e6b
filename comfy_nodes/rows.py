"""Text boxes with a number on each line: ``name : 0.8``; a name alone counts 1, ``#`` starts a comment."""

from __future__ import annotations

from collections.abc import Mapping

from erase_plugins.errors import RequestError

from .concepts import read_lines
from .wording import refusal


def read_rows(text: str) -> tuple[tuple[str, float], ...]:
    """(name, number) of each line. A name may hold colons ("hub:owner/name"), the number follows the last one.

    Raises:
        RequestError: a name twice, none, or something that is no usable number where one should be.
    """
    found: dict[str, float] = {}
    for line in read_lines(text):
        name, value = split(line)
        if name in found:
            raise RequestError(f"'{name}' is named twice; write each name once")
        found[name] = value
    return tuple(found.items())


def renamed(text: str, names: Mapping[str, str]) -> str:
    """The rows with other names and the same numbers; comments go."""
    return "\n".join(f"{names.get(name, name)} : {value}" for name, value in read_rows(text))


def split(line: str) -> tuple[str, float]:
    """Name and number of a line.

    Raises:
        RequestError: no name, or something that is no usable number where one should be.
    """
    name, colon, tail = (part.strip() for part in line.rpartition(":"))
    if not colon:
        return line, 1.0
    try:
        value = float(tail)
    except ValueError:
        if not tail or " : " in line or ": " in line:
            raise RequestError(
                f"'{line}': '{tail}' is not a number; write name : strength, as in pizza : 0.8"
            ) from None
        return line, 1.0
    if not name:
        raise RequestError(f"'{line}' names nothing; write name : strength, as in pizza : 0.8")
    if value != value or abs(value) > 100:
        raise RequestError(f"'{line}': {tail} is not a usable number; 1 is the evaluated strength, 0 switches off")
    return name, value


def rows_problem(text: str) -> str | None:
    """Why the text box cannot be used; None if it can."""
    return refusal(read_rows, text)
