"""Every test of an attack has a cache of its own: stand-ins that see other things have the same name and weights."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("ERASE_PLUGINS_CACHE", str(tmp_path_factory.mktemp("cache")))
