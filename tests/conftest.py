"""Shared fixtures, built once; what a run without ``--full`` leaves out; which tests stay together in one worker."""

from __future__ import annotations

import gc
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from tests import preloaded as forking

# one thread, here and in child processes: several tests compare results of two processes to the last bit
os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_XET", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
# as commands set it while tests run: preloaded.py would see another environment from then on
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
forking.AT_FIRST.update(os.environ)

#: objects that a full collection may walk through
_MANY = 100_000
GOLDEN = Path(__file__).parent / "golden" / "data"


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """A cache of this run, which workers and other child processes share; the user's own stays as it is.

    It lies where pytest itself looks for what killed runs left behind.
    """
    if not hasattr(config, "workerinput"):
        place = config._tmp_path_factory.getbasetemp() / "erase-plugins-cache"  # type: ignore[attr-defined]
        os.environ["ERASE_PLUGINS_CACHE"] = str(place)
        config.add_cleanup(lambda: shutil.rmtree(place, ignore_errors=True))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--golden-dir", default=str(GOLDEN), help="folder with golden cases (JSON + safetensors)")
    parser.addoption("--full", action="store_true", help="run the cases marked 'full' too")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out what needs ``--full``; several workers start the groups that take long first."""
    if not config.getoption("--full"):
        left_out = [item for item in items if item.get_closest_marker("full")]
        if left_out:
            config.hook.pytest_deselected(items=left_out)
            items[:] = [item for item in items if not item.get_closest_marker("full")]
    if hasattr(config, "workerinput"):
        groups: dict[str, list[pytest.Item]] = {}
        for item in items:
            groups.setdefault(group_of(item.nodeid), []).append(item)
        items[:] = [item for group in sorted(groups.values(), key=_begins) for item in group]


def pytest_sessionstart() -> None:
    """No garbage is looked for while everything is imported and collected."""
    gc.disable()


def pytest_collection_finish() -> None:
    _keep()
    gc.enable()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Between files, where many objects came: mostly libraries that the file imported."""
    if nextitem is not None and nextitem.path != item.path and len(gc.get_objects()) > _MANY:
        _keep()


def _keep() -> None:
    """What is there stays to the end: else each full collection walks through some hundred thousand objects of it."""
    gc.collect()
    gc.freeze()


def _begins(group: Iterable[pytest.Item]) -> int:
    """Place of a group in the order of beginning: whatever takes long does not stand at the end, with nothing beside it."""
    marks = {mark.name for item in group for mark in item.iter_markers()}
    return next((place for place, name in enumerate(("browser", "comfy", "slow")) if name in marks), 3)


def group_of(test: str) -> str:
    """Name of the tests that run in one worker with this one, by its id.

    A file's, whose fixtures are made once; all of the browser's, which share a server, and two files that share one without a
    browser; a method's contract, which shares runs.
    """
    file = test.partition("::")[0]
    found = re.search(r"::test_contract\[(.+?)-(tiny_\w+|pocket)-", test)
    if file.endswith(("comfy_nodes/test_server.py", "comfy_nodes/test_switching.py")):
        return "server"
    return "browser" if "/browser/" in file else f"contract of {found[1]}" if found else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With ``-n 2`` each worker takes the next group; xdist's own ``loadgroup`` cannot rename tests in pytest 9.2."""
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    config.option.loadscopereorder = False
    return ByGroup(config, log)


@pytest.fixture(scope="session")
def once(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Function that gives a folder under a name, filled by whichever worker asks first; nobody may change it.

    ``once(name, fill)`` calls ``fill(folder)`` at most once in a run of the tests.
    """
    from filelock import FileLock

    base = tmp_path_factory.getbasetemp()
    place = (base.parent if hasattr(request.config, "workerinput") else base) / "once"
    place.mkdir(exist_ok=True)

    def get(name: str, fill: Callable[[Path], object]) -> Path:
        folder, done = place / name, place / f"{name}.done"
        with FileLock(place / f"{name}.lock"):
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                fill(folder)
                done.touch()
        return folder

    return get


@pytest.fixture(scope="session")
def preloaded(once):
    """What runs a program in this interpreter with the libraries of a pipeline imported; see `tests/preloaded.py`."""
    return forking.command(sys.executable, once("preloaded", lambda folder: None), "pipelines", forking.PIPELINES)


@pytest.fixture(scope="session")
def preloaded_without_hub(once):
    """The same for programs with a Hub of their own: the libraries that its client does not belong to."""
    return forking.command(sys.executable, once("preloaded", lambda folder: None), "without_hub", forking.WITHOUT_HUB)


@pytest.fixture(scope="session")
def pocket_pipe():
    """The embedded pipeline. Tests restore whatever they change."""
    from erase_plugins import load

    return load("pocket")


@pytest.fixture(scope="session")
def pocket_target(pocket_pipe):
    """The embedded pipeline as a target."""
    from erase_plugins.workflow.models import target_of

    return target_of(pocket_pipe, "pocket")


@pytest.fixture
def tiny_sd1():
    """Factory of tiny random Stable Diffusion 1 pipelines."""
    from erase_plugins.testing.tiny import tiny_sd1

    return tiny_sd1


@pytest.fixture
def tiny_sdxl():
    """Factory of tiny random SDXL pipelines."""
    from erase_plugins.testing.tiny import tiny_sdxl

    return tiny_sdxl
