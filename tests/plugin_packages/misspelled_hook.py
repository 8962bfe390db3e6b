"""One letter is missing in the hook's name."""

import erase_plugins


@erase_plugins.hookimpl
def erase_metods():
    return []
