"""pytest fixtures for plugin authors: ``pytest_plugins = ["erase_plugins.testing.fixtures"]``. No network is used."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from erase_plugins.testing.models import changed_since, shared_pipeline
from erase_plugins.testing.observe import Snapshot, snapshot


@pytest.fixture
def erase_manager() -> Any:
    """The plugin manager of this process."""
    from erase_plugins.manager import get_manager

    return get_manager()


@pytest.fixture
def erase_register(erase_manager: Any) -> Iterator[Callable[[Any], Any]]:
    """Registers plugins for one test: ``erase_register(plugin)`` gives the manager."""
    from contextlib import ExitStack

    with ExitStack() as stack:
        count = iter(range(1000))
        yield lambda plugin: stack.enter_context(erase_manager.temporary(plugin, f"test{next(count)}"))


def _guarded(name: str) -> Iterator[Any]:
    pipe = shared_pipeline(name)
    before: Snapshot = snapshot(pipe)
    yield pipe
    difference = changed_since(pipe, before)
    assert not difference, f"the test left the shared {name} pipeline changed: {difference}"


@pytest.fixture
def erase_tiny_sd1() -> Iterator[Any]:
    """A tiny random Stable Diffusion 1 pipeline, shared; a test that leaves it changed fails."""
    yield from _guarded("tiny_sd1")


@pytest.fixture
def erase_tiny_sdxl() -> Iterator[Any]:
    """A tiny random SDXL pipeline, shared; a test that leaves it changed fails."""
    yield from _guarded("tiny_sdxl")


@pytest.fixture
def erase_pocket() -> Iterator[Any]:
    """The embedded trained pipeline, shared; a test that leaves it changed fails."""
    yield from _guarded("pocket")


@pytest.fixture
def hub_server(tmp_path: Path) -> Iterator[Any]:
    """A Hub on this machine (`erase_plugins.testing.hub_server.HubServer`) that the client uses for one test."""
    from erase_plugins.testing.hub_server import HubServer

    with HubServer() as hub, hub.as_default(tmp_path / "hub-cache"):
        yield hub


@pytest.fixture
def xet_hub_server(tmp_path: Path) -> Iterator[Any]:
    """A Hub on this machine that keeps large files by xet, as the real one does today; the client uses xet as well."""
    from erase_plugins.testing.hub_server import HubServer

    with HubServer(xet=tmp_path / "hub-xet") as hub, hub.as_default(tmp_path / "hub-cache"):
        yield hub
