"""Opening a model that was found."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from erase_plugins.workflow.found import FoundModel


@pytest.mark.parametrize("way", ["load", "pipeline"])
def test_threads_load_one_after_the_other(way):
    """Two at once got weights without values: the model libraries switch off their making for the whole process."""
    inside, crowded = threading.Semaphore(1), []

    def opened(*_: object) -> SimpleNamespace:
        crowded.append(not inside.acquire(blocking=False))
        time.sleep(0.05)
        inside.release()
        return SimpleNamespace(host=None)

    source = SimpleNamespace(revision=None)
    found = FoundModel("model", source, SimpleNamespace(load=opened, open=opened))
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda _: getattr(found, way)(), range(3)))
    assert crowded == [False] * 3
