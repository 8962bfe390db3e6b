"""Whose code an unexpected error comes from: a plugin of somebody else, to be named beside the error."""

from __future__ import annotations

from traceback import walk_tb
from typing import TYPE_CHECKING, Any

from erase_plugins.plugin_loading import OWN_PACKAGE

if TYPE_CHECKING:
    from erase_plugins.plugin_loading import PluginLoader


def blamed(error: BaseException, manager: PluginLoader) -> str:
    """The plugin in whose module an error arose, or that called what raised it; empty if none had a part in it.

    Args:
        error: with its traceback.
        manager: the registry in use.

    Returns:
        "package version (module.py, line n)", of the innermost line that is a plugin's.
    """
    owners = {
        getattr(plugin, "__name__", type(plugin).__module__): row
        for row in manager.plugins()
        if row["package"] != OWN_PACKAGE and (plugin := manager.pluggy.get_plugin(row["name"])) is not None
    }
    found = ""
    for frame, line in walk_tb(error.__traceback__):  # the innermost comes last
        module = str(frame.f_globals.get("__name__", ""))
        if (row := _owner(module, owners)) is not None:
            file = module.rpartition(".")[2].removeprefix("erase_plugins_file_")
            found = f"{row['package']} {row['version']}".strip() + f" ({file}.py, line {line})"
    return found


def _owner(module: str, owners: dict[str, dict[str, Any]]) -> dict[str, Any] | None:
    """The plugin whose package a module belongs to."""
    for name, row in owners.items():
        top = name.partition(".")[0]
        if module in (name, top) or module.startswith(f"{top}."):
            return row
    return None
