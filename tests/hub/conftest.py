"""A test Hub with the plugin in force, and small artifacts to publish."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import pytest

import hub_cards
from erase_plugins import erase, get_manager
from erase_plugins.page import package
from erase_plugins.testing.fixtures import hub_server, xet_hub_server  # noqa: F401
from erase_plugins.testing.models import shared_pipeline

REPO = "tester/no-pizza"


@pytest.fixture
def plugin():
    """hub_cards as a plugin, installed or not."""
    manager = get_manager()
    if manager.pluggy.is_registered(hub_cards):
        yield manager
        return
    with manager.temporary(hub_cards, "hub_cards"):
        yield manager


@pytest.fixture
def hub(hub_server, plugin):  # noqa: F811
    return hub_server


@pytest.fixture(scope="session", autouse=True)
def one_archive():
    """Every Space holds this package as a zip; the same bytes are made once, which takes a second or, with pocket, three."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(package, "archive", cache(package.archive))
        yield


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """Two saved artifacts of one base: pizza, and (with other files) hamburger."""
    place = tmp_path_factory.mktemp("made")
    options = {"vocabulary": "20"}
    pipe = shared_pipeline("tiny_sd1")
    return {
        name: erase(pipe, name, "uce", out=place / name, options=options, keep=["a plate"])
        for name in ("pizza", "hamburger")
    }


@pytest.fixture
def pizza(made):
    return made["pizza"]


@pytest.fixture
def hamburger(made):
    return made["hamburger"]


def contents(folder, but=()):
    """Relative name -> bytes of everything below a folder, hidden files too, without what lies in the folders ``but``."""
    found = {}
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if Path(place, name) not in but]
        for item in (Path(place, name) for name in names):
            if item.is_file():
                found[item.relative_to(folder).as_posix()] = item.read_bytes()
    return found


@pytest.fixture
def xet_hub(xet_hub_server, plugin):  # noqa: F811
    """A Hub that keeps large files by xet; the client uses xet too."""
    return xet_hub_server


def shared_blobs():
    """The files that the client's cache shares between repositories."""
    from pathlib import Path

    from huggingface_hub import constants

    place = Path(constants.HF_HUB_CACHE) / "blobs"
    return sorted(item for item in place.glob("*/*") if not item.suffix)


def spoil(path, place=-1):
    """Flips one bit of a file, whatever its rights; the size stays."""
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.chmod(0o644)
    path.write_bytes(bytes(data))
