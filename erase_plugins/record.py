"""The base of every record: conversion to and from plain dictionaries, with a schema number."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from erase_plugins.errors import RequestError


class Record:
    """Mixin: versioned conversion to and from plain dictionaries."""

    schema: ClassVar[int] = 1

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionary with the schema number; unknown fields read earlier are written back."""
        out: dict[str, Any] = {"schema": self.schema}
        for item in dataclasses.fields(self):  # type: ignore[arg-type]
            if item.name != "extra" and item.metadata.get("stored", True) and not _left_out(self, item):
                out[item.name] = plain(getattr(self, item.name))
        return {**dict(getattr(self, "extra", {})), **out}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Record from a dictionary.

        Raises:
            RequestError: newer schema than this version knows, missing or misspelt fields.
        """
        found = data.get("schema", cls.schema)
        if not isinstance(found, int) or found > cls.schema:
            raise RequestError(
                f"{cls.__name__} has schema {found}, this version reads up to {cls.schema}; update erase-plugins"
            )
        names = {item.name for item in dataclasses.fields(cls)}  # type: ignore[arg-type]
        known = {key: value for key, value in data.items() if key in names and key != "extra"}
        unknown = {key: value for key, value in data.items() if key not in names and key != "schema"}
        if "extra" in names:
            known["extra"] = unknown
        try:
            return cls(**cls._revive(known))
        except TypeError as error:
            raise RequestError(f"{cls.__name__} is incomplete: {error}") from error

    @classmethod
    def _revive(cls, known: dict[str, Any]) -> dict[str, Any]:
        """Turns nested dictionaries and lists back into records and tuples."""
        return {key: tuple(value) if isinstance(value, list) else value for key, value in known.items()}


def plain(value: Any) -> Any:
    """A value in types that JSON has."""
    if isinstance(value, Record):
        return value.to_dict()
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in (sorted(value) if isinstance(value, set | frozenset) else value)]
    return value


def _left_out(record: Any, item: dataclasses.Field[Any]) -> bool:
    """Whether a sparse field holds its default: fields that came later are written only where they say something."""
    if not item.metadata.get("sparse"):
        return False
    made = item.default_factory
    return bool(getattr(record, item.name) == (item.default if made is dataclasses.MISSING else made()))
