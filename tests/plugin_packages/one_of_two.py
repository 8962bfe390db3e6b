"""Registers a sound method and a broken one; the sound one stays."""

from good_plugin import Shift

import erase_plugins


class Sound(Shift):
    id = "sound"


class Broken(Shift):
    id = "Not An Id"


@erase_plugins.hookimpl
def erase_methods():
    return [Broken(), Sound()]
