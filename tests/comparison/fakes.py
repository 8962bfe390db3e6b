"""Stands for erasing and measuring: seconds become milliseconds, everything around stays real."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import erase_plugins
from erase_plugins.comparison import executors
from erase_plugins.comparison.cells import PICTURES, Cell
from erase_plugins.errors import NotFiniteError

MEASURED = {"judge": "fake", "judge_hash": "1", "suite": "quick", "images": 4, "seed": 0, "sampler": {}, "base": {}}


def result(cell: Cell, target: float = 0.0, kept: float = 1.0, **changes: Any) -> dict[str, Any]:
    """A result as `run_cell` gives it, with rates of four pictures."""
    rates = {
        "target_rate": {"base": [1.0, 0.25, 1.0, 4], "edited": [target, 0.0, 1.0, 4]},
        "synonym_rate": {"base": [1.0, 0.25, 1.0, 4], "edited": [target, 0.0, 1.0, 4]},
        "kept_rate": {"base": [1.0, 0.25, 1.0, 4], "edited": [kept, 0.0, 1.0, 4], "destroyed": [0.0, 0.0, 0.75, 4]},
    }
    return {
        "schema": 1, "status": "ok", "label": cell.label, "cell": cell.to_dict(), "rates": rates,
        "change": {"kept_rate": [kept - 1, 0, 0]}, "warnings": [], "seconds": 2.0, "forwards": 10, "peak_mb": 100,
        "bytes": 1000, "kinds": ["lowrank"], "rank": 1, "options": {},
        "method": {"id": cell.method, "version": erase_plugins.__version__},
        "measured_by": MEASURED, **changes,
    }  # fmt: skip


def run_cell(cell: Cell, pipe: Any, place: Path) -> dict[str, Any]:
    """Notes that it ran; "nan" fails, "killer" takes its process along, "halfway" does so with its second method,
    "slow" takes a minute."""
    from PIL import Image

    assert pipe == "pipe", "a model was opened although `prepare` put a fake in its place"
    place.mkdir(parents=True, exist_ok=True)
    with (place / "ran").open("a") as file:
        file.write("x")
    if cell.concept == "killer" or (cell.concept, cell.method) == ("halfway", "rece"):
        os.kill(os.getpid(), signal.SIGKILL)
    if cell.concept == "slow":
        time.sleep(60)
    if cell.concept == "nan":
        raise NotFiniteError("loss became nan")
    if cell.concept == "bug":
        raise ZeroDivisionError("in a plugin")
    Image.new("RGB", (4 * 16, 16), "red").save(place / PICTURES)
    return result(cell)


def prepare() -> None:
    """Puts the fake in place, in this process or another one."""
    import erase_plugins.workflow.models as loading

    executors.run_cell = run_cell
    loading.load_pipeline = lambda *given, **named: "pipe"
