"""Data of a request by reference: where it is, which part of it, and the hash that says it is still the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from erase_plugins.record import Record


@dataclass(frozen=True)
class DataRef(Record):
    """Where data is.

    Attributes:
        uri: a folder, a .jsonl file, or "datasets:NAME" of a `datasets` dataset.
    """

    uri: str
    split: str = ""
    fields: tuple[str, ...] = ()
    sha256: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """How messages call it, without the user's folders."""
        return self.uri.rstrip("/").rsplit("/", 1)[-1]

    @property
    def place(self) -> tuple[str, str]:
        """What is the same for two references to the same data."""
        return self.uri, self.split
