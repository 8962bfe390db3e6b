"""What readers and writers of artifacts are given: families and layouts as plain data."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from erase_plugins.errors import RequestError, UnknownName
from erase_plugins.known import Known
from erase_plugins.manager import Manager, get_manager


def test_it_holds_what_is_registered_in_its_order():
    known = get_manager().known()
    assert list(known.families) == [entry.item.id for entry in get_manager().families()]
    assert list(known.layouts) == [entry.item.id for entry in get_manager().layouts()]
    assert known.family("sd1") is get_manager().family("sd1")
    assert known.layout("patch") is get_manager().layout("patch")


def test_unknown_names_and_clashes_are_told_apart():
    known = Known({"sd1": SimpleNamespace(id="sd1")}, {}, {("family", "toy"): "id 'toy' is claimed by a and b"})
    with pytest.raises(UnknownName, match="no family named 'sd2'"):
        known.family("sd2")
    with pytest.raises(RequestError, match="claimed by a and b"):
        known.family("toy")
    with pytest.raises(UnknownName):
        known.layout("toy")


def test_a_clash_of_two_plugins_reaches_the_readers():
    class Twin:
        """Registers the built-in layouts a second time."""

    from erase_plugins import hookimpl

    layout = get_manager().layout("patch")
    Twin.erase_layouts = hookimpl(lambda self: [layout])
    Twin.erase_layouts.__name__ = "erase_layouts"
    manager = Manager()
    manager.load_builtins()
    with manager.temporary(Twin(), "twin"), pytest.raises(RequestError, match="id 'patch' is claimed by"):
        manager.known().layout("patch")
    assert manager.known().layout("patch").id == "patch"
