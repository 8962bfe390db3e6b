"""Fails when asked for its methods, its command and its opinion."""

import erase_plugins


@erase_plugins.hookimpl
def erase_methods():
    raise ValueError("weights are not where they were")


@erase_plugins.hookimpl
def erase_on_event(event):
    raise ValueError("no listener")


@erase_plugins.hookimpl
def erase_layouts():
    return []
