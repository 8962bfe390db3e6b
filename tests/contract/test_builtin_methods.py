"""The contract, over every method that is registered: method x model x layout."""

from __future__ import annotations

from erase_plugins.manager import get_manager
from erase_plugins.testing.contract import MethodContract


class TestRegisteredMethods(MethodContract):
    methods = tuple(entry.item.id for entry in get_manager().methods())
