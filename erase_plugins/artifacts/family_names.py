"""What files need to know of a model family: its id, its components, and how its modules are called in files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class FamilyNames(Protocol):
    """The part of `erase_plugins.families.base.Family` that layouts use."""

    id: str
    title: str
    components: tuple[str, ...]
    denoiser: str
    layouts: tuple[str, ...]
    transposed: frozenset[str]
    projected: tuple[str, ...]

    @property
    def roles(self) -> Mapping[str, str | tuple[str, ...]]:
        """Capability -> the part or parts of a model that have it."""

    modelspec: str
    base_version: str

    def stem(self, layout: str, component: str, path: str, config: Mapping[str, Any] | None = None) -> str:
        """Name of a module in files of ``layout``."""

    def locate(self, layout: str, stem: str, config: Mapping[str, Any] | None = None) -> tuple[str, str] | None:
        """(component, module path) of a file name, inverse of `stem`; None if it is not of this family."""
