"""The boxes of the Erase node: rows of concepts with strengths, the list of methods, options as text. No torch."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from erase_plugins.concept_text import read_concept
from erase_plugins.errors import RequestError, UnknownName
from erase_plugins.manager import get_manager
from erase_plugins.options import describe
from erase_plugins.types import Concept

from .concepts import read_lines
from .rows import split
from .search_options import AUTO
from .wording import refusal

#: options of every method that trains
TRAINING = {"seed": 0, "preview_every": 20}


@dataclass(frozen=True)
class Row:
    """A concept and how far it is moved to what it becomes."""

    concept: Concept
    strength: float


def read_erasures(text: str, kind: str = "object") -> tuple[Row, ...]:
    """Rows of the text box, ``concept -> replacement : strength``; those that are switched off with ``#`` left out.

    Args:
        text: one row a line; replacement and strength may be missing.
        kind: kind of all concepts.

    Raises:
        RequestError: an empty box, a concept named twice, or a line that cannot be read.
    """
    found: dict[str, Row] = {}
    for line in read_lines(text):
        words, strength = (line, 1.0) if line[-1] in '"”“»' else split(line)
        name, guide = read_concept(words)
        if name.casefold() in found:
            raise RequestError(f"'{name}' is named twice; write each concept once")
        found[name.casefold()] = Row(Concept(name, kind, anchor=guide), strength)
    if not found and not text.strip():
        raise RequestError("no concept to erase; write one a line, for example: pizza -> hamburger")
    return tuple(found.values())


def erasures_problem(text: str) -> str | None:
    """Why the text box cannot be used; None if it can."""
    return refusal(read_erasures, text)


def read_options(text: str) -> dict[str, str]:
    """``name = value`` lines.

    Raises:
        RequestError: a line of another form, or a name twice.
    """
    found: dict[str, str] = {}
    for line in read_lines(text):
        name, sign, value = (part.strip() for part in line.partition("="))
        if not sign or not name or not value:
            raise RequestError(f"'{line[:60]}' is no option; write name = value, one a line, as in: aliases = true")
        if name in found:
            raise RequestError(f"option {name} is written twice; write it once")
        found[name] = value
    return found


def split_options(method: Any, text: str) -> tuple[dict[str, str], dict[str, int]]:
    """Options of the method, and those of its training in this graph.

    Raises:
        RequestError, UnknownName: a line that cannot be read, or a name that neither has.
    """
    given = read_options(text)
    own = {item.name for item in describe(method.Options)}
    shared = TRAINING if trains(method) else {}
    for name in given:
        if name not in own and name not in shared:
            raise UnknownName(f"option of '{method.id}'", name, {*own, *shared})
    training = dict(TRAINING)
    for name in set(given) & set(shared) - own:
        try:
            training[name] = int(given[name])
        except ValueError:
            raise RequestError(f"option {name} = {given[name][:40]} is no whole number") from None
    return {name: value for name, value in given.items() if name in own}, training


def trains(method: Any) -> bool:
    """Whether a method trains; the others solve in seconds."""
    return any(item.name == "steps" for item in describe(method.Options))


def label(method: Any) -> str:
    """Entry of the list of methods; its first word is the id."""
    takes = "searches" if method is AUTO else "trains" if trains(method) else "in seconds"
    return f"{method.id}: {method.title}, {takes}"


def labels(methods: Collection[Any]) -> list[str]:
    """All entries: the plainest method, the search, and the others, those that solve in seconds first."""
    first, *others = sorted(methods, key=lambda item: (trains(item), methods_order(item)))
    return [label(item) for item in (first, AUTO, *others)]


def methods_order(method: Any) -> tuple[bool, str]:
    """The plainest method leads, the others follow by name."""
    return (method.id != "uce", method.id)


def method_of(entry: str) -> Any:
    """The method of an entry of the list or of an id, or the search.

    Raises:
        UnknownName: it is not registered.
    """
    return AUTO if id_of(entry) == AUTO.id else get_manager().method(id_of(entry))


def id_of(entry: str) -> str:
    """Id of a method from an entry of the list, or from the id alone; titles may change in later versions."""
    return entry.partition(":")[0].strip()
