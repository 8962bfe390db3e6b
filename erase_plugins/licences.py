"""Licences: the identifiers that the Hub takes, and the one that a base model asks of what is made for it."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from erase_plugins.errors import PushRefused, RequestError
from erase_plugins.hints import Hint
from erase_plugins.markdown import code

OTHER = "other"


@cache
def identifiers() -> tuple[str, ...]:
    """All of them."""
    lines = Path(__file__).with_suffix(".txt").read_text(encoding="utf-8").split("\n")
    return tuple(line for line in lines if line and not line.startswith("#"))


def checked(given: str) -> tuple[str, str | None]:
    """The identifier as the Hub writes it, and the name that goes with "other".

    Args:
        given: an identifier in any case, or "other:NAME".

    Raises:
        RequestError: the Hub has no such identifier, or a name is missing or stands where there is none.
    """
    text, _, name = (part.strip() for part in given.partition(":"))
    text, named = text.lower(), Hint("license", "other:NAME")
    if text not in identifiers():
        close = get_close_matches(text, identifiers(), n=1)
        meant = f"; did you mean '{close[0]}'?" if close else "."
        raise RequestError(
            f"the Hub has no licence '{text[:60]}'{meant} https://hf.co/docs/hub/repositories-licenses lists those of "
            "the Hub; for another one give ", named
        )  # fmt: skip
    if (text == OTHER) != bool(name):
        raise RequestError(f"only licence '{OTHER}' has a name, and needs one: ", named)
    return text, name or None


@dataclass(frozen=True)
class Licence:
    """A licence as the Hub names it; ``name`` and ``link`` go with the id "other"."""

    id: str
    name: str | None = None
    link: str | None = None

    def metadata(self) -> dict[str, str | None]:
        """Its lines in a card's YAML."""
        return {"license": self.id, "license_name": self.name, "license_link": self.link}

    @classmethod
    def read(cls, data: Mapping[str, Any]) -> Licence | None:
        """What a card's YAML says, whoever wrote it; None if it names no licence."""
        found = [str(data.get(key) or "") or None for key in ("license_name", "license_link")]
        return cls(data["license"], *found) if isinstance(data.get("license"), str) else None


@cache
def known() -> dict[str, Licence]:
    """Start of a base model's id, in lower case -> its licence."""
    rows = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
    return {start: Licence(row) if isinstance(row, str) else Licence("other", *row) for start, row in rows.items()}


def licence_of(base: Mapping[str, Any], given: str | Licence | None = None) -> Licence | None:
    """The licence that is given (also by its id, as `checked` takes it), that of the base, or None: nobody knows."""
    if given:
        return given if isinstance(given, Licence) else Licence(*checked(given))
    name = str(base.get("model") or "").lower()
    return next((licence for start, licence in known().items() if name.startswith(start)), None)


def needed(base: Mapping[str, Any], given: str | Licence | None, reason: str = "") -> Licence:
    """The licence to publish under.

    Args:
        base: what the manifest says of the base model.
        given: as for `licence_of`.
        reason: why nobody but the user knows it; by default that the one of the base model is not known here.

    Raises:
        PushRefused: it is not known.
    """
    found = licence_of(base, given)
    if found is None:
        reason = reason or f"the licence of the base model {code(base.get('model'))} is not known here"
        raise PushRefused(f"{reason}; ", Hint("license", "ID", before="name it with"))
    return found
