"""Half a method."""

import erase_plugins


class Half:
    id = "half"
    title = "Half"

    def plan(self, request, info):
        return None


@erase_plugins.hookimpl
def erase_methods():
    return [Half()]
