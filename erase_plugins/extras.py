"""Which optional packages are installed, read from the package's own metadata. No torch."""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, requires, version

from erase_plugins.errors import MissingExtra

PACKAGE = "erase-plugins"
_REQUIREMENT = re.compile(r"^([A-Za-z0-9._-]+)[^;]*;.*extra\s*==\s*['\"]([A-Za-z0-9._-]+)['\"]")
#: for a source tree that is not installed
_FALLBACK = {"plots": ("matplotlib",)}


def extras() -> dict[str, tuple[str, ...]]:
    """Extra -> packages it brings."""
    try:
        lines = requires(PACKAGE) or []
    except PackageNotFoundError:
        return dict(_FALLBACK)
    found: dict[str, tuple[str, ...]] = {}
    for line in lines:
        match = _REQUIREMENT.match(line)
        if match and match[1] != PACKAGE:
            found[match[2]] = (*found.get(match[2], ()), match[1])
    return found or dict(_FALLBACK)


def installed(package: str) -> str | None:
    """Version of an installed package, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def missing_extras(needs: Iterable[str]) -> list[str]:
    """Those of the needed extras that lack a package; an extra we do not know counts as a package name."""
    table = extras()
    return [name for name in sorted(needs) if not all(installed(package) for package in table.get(name, (name,)))]


def require(packages: Iterable[str], what: str) -> None:
    """Refuses ``what`` (for people) where a package that it needs is not installed.

    Raises:
        MissingExtra: names those that are missing.
    """
    if lacking := missing_extras(packages):
        raise MissingExtra(what, ",".join(lacking))


def install(lacking: Iterable[str]) -> str:
    """The command that brings what `missing_extras` named."""
    table = extras()
    return "pip install " + " ".join(f"'{PACKAGE}[{name}]'" if name in table else name for name in lacking)
