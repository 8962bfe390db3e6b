"""Licences: an adapter is published under the one that its base asks for."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from erase_plugins.errors import PushRefused
from erase_plugins.hints import Hint
from erase_plugins.licences import checked
from hub_cards.escape import code


@dataclass(frozen=True)
class Licence:
    """A licence as the Hub names it; ``name`` and ``link`` go with the id "other"."""

    id: str
    name: str | None = None
    link: str | None = None

    def metadata(self) -> dict[str, str | None]:
        """Its lines in a card's YAML."""
        return {"license": self.id, "license_name": self.name, "license_link": self.link}


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


def needed(base: Mapping[str, Any], given: str | Licence | None) -> Licence:
    """The licence to publish under.

    Raises:
        PushRefused: it is not known.
    """
    found = licence_of(base, given)
    if found is None:
        name = code(base.get("model"))
        raise PushRefused(
            f"the licence of the base model {name} is not known here; ", Hint("license", "ID", before="name it with")
        )
    return found
