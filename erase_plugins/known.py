"""Families and layouts that readers and writers of artifacts may use: what the registry knows, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from erase_plugins.errors import RequestError, UnknownName


@dataclass(frozen=True)
class Known:
    """Families and layouts by id, in the order of their registration.

    Attributes:
        families, layouts: id -> object.
        clashes: (family or layout, id) -> why an id that several plugins claim is left out.
        packages: (family or layout, id) -> package and version, of those that are not built in.
    """

    families: Mapping[str, Any] = field(default_factory=dict)
    layouts: Mapping[str, Any] = field(default_factory=dict)
    clashes: Mapping[tuple[str, str], str] = field(default_factory=dict)
    packages: Mapping[tuple[str, str], tuple[str, str]] = field(default_factory=dict)

    def has(self, what: str, name: str) -> bool:
        """Whether a plugin, or more than one, brings this family or layout."""
        return name in (self.families if what == "family" else self.layouts) or (what, name) in self.clashes

    def brought(self, what: str, name: str) -> dict[str, str]:
        """Package and version that a family or layout comes from; empty if it is built in."""
        return dict([self.packages[(what, name)]]) if (what, name) in self.packages else {}

    def family(self, name: str) -> Any:
        """The family with this id.

        Raises:
            UnknownName: not there.
            RequestError: claimed by two plugins.
        """
        return self._get("family", self.families, name)

    def layout(self, name: str) -> Any:
        """The layout with this id; raises as `family` does."""
        return self._get("layout", self.layouts, name)

    def _get(self, what: str, table: Mapping[str, Any], name: str) -> Any:
        if name in table:
            return table[name]
        if (what, name) in self.clashes:
            raise RequestError(self.clashes[(what, name)])
        raise UnknownName(what, name, table)
