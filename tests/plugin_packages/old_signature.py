"""Written when registration took a registry."""

import erase_plugins


@erase_plugins.hookimpl
def erase_layouts():
    return []


@erase_plugins.hookimpl
def erase_methods(registry):
    registry.add("method")
