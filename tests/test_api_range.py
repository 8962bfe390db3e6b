"""A plugin is taken when the hooks that it was written for are among those that are served."""

from __future__ import annotations

import pytest

from erase_plugins import hookimpl, hookspecs
from erase_plugins.api_range import check_api
from erase_plugins.errors import PluginError
from erase_plugins.manager import Manager

NEWER, PACKAGE = "install a newer erase-plugins", "install a newer version of this package"


@pytest.fixture
def serves(monkeypatch):
    """Function that sets the oldest and the newest version of the hooks that are served."""

    def change(oldest, newest):
        monkeypatch.setattr(hookspecs, "API_OLDEST", oldest)
        monkeypatch.setattr(hookspecs, "API_VERSION", newest)

    return change


@pytest.mark.parametrize(
    ("oldest", "newest", "stated"),
    [
        (1, 1, 1), (1, 3, 1), (1, 3, 2), (1, 3, 3), (2, 3, ">=1"), (2, 3, ">=1,<3"), (2, 3, " >= 3 , < 9 "),
        (2, 3, "<=2"), (2, 3, ">2"), (2, 3, "!=3"), (2, 3, "==3"),
    ],
)  # fmt: skip
def test_what_is_compatible_is_taken(serves, oldest, newest, stated):
    serves(oldest, newest)
    check_api(stated)


@pytest.mark.parametrize(
    ("oldest", "newest", "stated", "advice"),
    [
        (1, 1, 0, PACKAGE), (1, 1, 2, NEWER), (2, 3, 1, PACKAGE), (2, 3, 4, NEWER), (2, 3, "<2", PACKAGE),
        (2, 3, ">3", NEWER), (2, 3, ">=4,<6", NEWER), (2, 3, ">=0,<=1", PACKAGE), (2, 3, ">=9", NEWER),
        (2, 3, "!=2,!=3,>1", NEWER), (2, 3, ">1,<2", PACKAGE),
    ],
)  # fmt: skip
def test_the_side_to_update_is_named(serves, oldest, newest, stated, advice):
    serves(oldest, newest)
    with pytest.raises(PluginError) as caught:
        check_api(stated)
    here = "hooks 1" if newest == 1 else "hooks 2 to 3"
    assert str(caught.value) == f"written for hooks {stated}, this is {here}; {advice}"


@pytest.mark.parametrize("stated", ["", "1.x", ">=1;<3", ">=", "~=1", None, 1.0, True, (1, 2), ">=1,", ">=-1"])
def test_what_cannot_be_read_is_refused(stated):
    with pytest.raises(PluginError, match=r"ERASE_PLUGINS_API is .*; write a number such as 1, or a range"):
        check_api(stated)


def test_the_manager_asks(serves):
    class Ranged:
        ERASE_PLUGINS_API = ">=1,<3"

        @hookimpl
        def erase_methods(self):
            return []

    for version in (1, 2):
        serves(version, version)
        with Manager().temporary(Ranged()):
            pass
    serves(3, 3)
    with pytest.raises(PluginError, match="written for hooks >=1,<3, this is hooks 3"), Manager().temporary(Ranged()):
        pass
    serves(2, 4)
    with Manager().temporary(Ranged()):
        pass


def test_a_plugin_that_says_nothing_is_taken(serves):
    class Silent:
        @hookimpl
        def erase_methods(self):
            return []

    serves(5, 6)
    with Manager().temporary(Silent()):
        pass
