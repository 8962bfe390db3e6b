"""What is read of an artifact whose layout, family or method is of a package that is gone, and what is said of it."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from erase_plugins.artifacts.manifest import LIBRARIES, ArtifactFile, Manifest
from erase_plugins.errors import PluginAbsent
from erase_plugins.hints import LIST_PLUGINS

if TYPE_CHECKING:
    from erase_plugins.known import Known

#: file layouts that stock loaders and we read without any plugin, for those who ask the author again
_ELSE = "or ask its author for layout patch"


def readable(manifest: Manifest, folder: Path, known: Known) -> tuple[ArtifactFile, ...]:
    """The files to read: the essential ones or, where nobody here has their layout, others that hold all of the edit.

    Raises:
        PluginAbsent: no file that is here can be read; names the package that is missing.
    """
    if (first := manifest.essential) and known.has("layout", first[0].layout):
        return first
    partly = {note.partition(" file: ")[0] for note in manifest.notes}  # such a note tells what a file lost
    for item in manifest.files:
        if known.has("layout", item.layout) and item.layout not in partly and os.path.lexists(folder / item.name):
            return tuple(other for other in manifest.files if other.layout == item.layout)
    raise absent(folder.resolve().name, "layout", manifest.essential[0].layout, manifest)


def family_of(manifest: Manifest, name: str, known: Known) -> Any:
    """The family that an artifact is for.

    Raises:
        PluginAbsent: nobody here has it; names the package that is missing.
    """
    if not known.has("family", manifest.family):
        raise absent(name, "family", manifest.family, manifest)
    return known.family(manifest.family)


def absent(name: str, what: str, wanted: str, manifest: Manifest) -> PluginAbsent:
    """The error about an artifact (``name``) whose layout, family or method (``what``) nobody here has."""
    packages = {package: version for package, version in manifest.versions.items() if package not in LIBRARIES}
    method = manifest.method
    own = {str(method["package"]): str(method.get("version", ""))} if method.get("package") else {}
    if what == "method" or (what == "family" and not packages and own.keys().isdisjoint(LIBRARIES)):
        # for a family: written before packages were noted; who has a method of his own for one has both in one package
        packages = own
    here = [package for package in packages if _installed(package)]
    gone = [f"{package} {version}".strip() for package, version in packages.items() if package not in here]
    start = f"'{name}' has the {what} {wanted[:40]}, which no plugin here brings; "
    other = f", {_ELSE}" if what == "layout" else ""
    if gone:
        return PluginAbsent(f"{start}it was written with {' and '.join(gone)[:200]}: install that{other}")
    if here:
        named = " and ".join(here)[:200]
        return PluginAbsent(f"{start}it was written with {named}, which is installed but not in use: ", LIST_PLUGINS,
                            " says why")  # fmt: skip
    return PluginAbsent(f"{start}install the package that does{other}")


def methods_of(method: Mapping[str, Any]) -> tuple[str, ...]:
    """Ids of the registered methods that a manifest's ``method`` names; none for what another program made."""
    return () if "source" in method else tuple(str(method.get("id", "")).split("+"))


def _installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return False
    return True
