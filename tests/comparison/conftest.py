"""Cells that cost nothing; what the fakes replace is put back."""

from __future__ import annotations

import pytest

from erase_plugins.comparison import executors
from erase_plugins.comparison.run import make_cells
from erase_plugins.workflow import models as loading

METHODS = [("uce", {}), ("rece", {})]


@pytest.fixture
def fake(monkeypatch):
    """Lets `fakes.prepare` change this process for one test."""
    monkeypatch.setattr(executors, "run_cell", executors.run_cell)
    monkeypatch.setattr(loading, "load_pipeline", loading.load_pipeline)


@pytest.fixture
def cells():
    """Makes cells of two methods for the named concepts."""
    return lambda *names: make_cells(dict.fromkeys(names, "object"), METHODS, images=4, seed=0)
