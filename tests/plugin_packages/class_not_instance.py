"""Returns the class."""

import erase_plugins


class Eraser:
    id = "class-eraser"


@erase_plugins.hookimpl
def erase_methods():
    return [Eraser]
