"""Says that it was written for the hooks before the current ones."""

import erase_plugins

ERASE_PLUGINS_API = 0


@erase_plugins.hookimpl
def erase_methods():
    return []
