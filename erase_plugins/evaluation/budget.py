"""What an attack may spend, and where it keeps what it has so far. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from erase_plugins.artifacts.atomic import atomic_file
from erase_plugins.errors import RequestError, UnknownName
from erase_plugins.evaluation.context import SuiteContext
from erase_plugins.types import BUDGETS

CUSTOM = "custom"


@dataclass(frozen=True)
class Budget(SuiteContext):
    """Services for one run of an attack. Unlike that of a suite, ``work`` outlives a killed run and is found again.

    Attributes:
        name: "quick", "standard", "long" or "custom".
        queries: answers of the model (pictures today) that may be looked at.
    """

    name: str = BUDGETS[0]
    queries: int = 0

    def remember(self, stage: str, make: Callable[[], Any]) -> Any:
        """What ``make`` gives (JSON-ready), computed once: a run that goes on after a kill reads it from ``work``."""
        place = self.work / f"{stage}.json"
        if place.is_file():
            try:
                return json.loads(place.read_text(encoding="utf-8"))
            except ValueError:  # torn by a crash of the machine; computed again
                pass
        made = make()
        with atomic_file(place) as work:
            work.write_text(json.dumps(made), encoding="utf-8")
        return made


def find_budget(attack: Any, text: str | int, options: Mapping[str, Any] | None = None) -> tuple[str, int]:
    """Name and queries of a budget as the user gave it, for an attack with these options (its defaults if None).

    Raises:
        UnknownName: neither a name nor a number.
        RequestError: less than one query, or than the attack needs.
    """
    if str(text) in BUDGETS:
        return str(text), int(attack.budgets[str(text)])
    try:
        queries = int(text)
    except ValueError:
        raise UnknownName("budget", str(text), (*BUDGETS, "or a number of queries")) from None
    if queries < 1:
        raise RequestError(f"budget {queries} allows no query; give {', '.join(BUDGETS)}, or a number from 1")
    check_size(attack.id, queries, least_budget(attack, options or {}))
    return CUSTOM, queries


def least_budget(attack: Any, options: Mapping[str, Any]) -> int:
    """Queries without which an attack cannot run: its ``least``, a number or a function of the options that are set."""
    least = getattr(attack, "least", 1)
    return int(least(options) if callable(least) else least)


def check_size(attack: str, queries: int, least: int) -> None:
    """Whether a budget is enough for an attack, which is named in the error.

    Raises:
        RequestError: it is not.
    """
    if queries < least:
        raise RequestError(f"budget {queries} is too small for attack {attack}; give at least {least}")
