"""The entry "auto" of the Erase node, beside the methods: what its box of options takes. No torch."""

from __future__ import annotations

from dataclasses import dataclass

from erase_plugins.options import option


@dataclass(frozen=True)
class AutoOptions:
    """Options of a search."""

    minutes: float = option(5.0, "how long to search; what cannot finish in it is not started", low=0.1)
    methods: str = option("", "methods to search among, with commas between; all that fit if empty")
    also: str = option("", "other words for the concept that must be gone too, with commas between")
    seed: int = option(0, "of everything random in the search", low=0)

    def listed(self, name: str) -> list[str]:
        """An option that holds several words."""
        return [word.strip() for word in str(getattr(self, name)).split(",") if word.strip()]


class Auto:
    """What the list of methods shows of the search; it is no method."""

    id = "auto"
    title = "tries methods and settings"
    packages = frozenset({"optuna"})
    Options = AutoOptions


AUTO = Auto()
