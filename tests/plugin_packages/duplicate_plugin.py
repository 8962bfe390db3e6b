"""Claims an id that another package has."""

from good_plugin import Shift

import erase_plugins


class Other(Shift):
    title = "Shift of another package"


@erase_plugins.hookimpl
def erase_methods():
    return [Other()]
