"""The figure of a study: failure against the varied rate, one line per size, and the curves laid over each other."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np


def draw(record: dict[str, Any], path: Path) -> bool:
    """Writes the figure; whether matplotlib is there to do it."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return False
    from erase_fbqc.result import beside, percent

    study, grid, best = record["study"], np.asarray(record["grid"]), record["threshold"]
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    centre = best["value"] if best is not None else record["expected"]
    for number, (size, curve) in enumerate(record["sizes"].items()):
        colour = f"C{number}"
        left.plot(grid, curve["any"], colour, marker="o" if len(grid) < 30 else None, ms=3, label=f"L = {size}")
        left.fill_between(grid, curve["low"], curve["high"], color=colour, alpha=0.2, lw=0)
        # nu = 0.88 is that of three-dimensional percolation; for errors it is close enough to look at
        right.plot((grid - centre) * int(size) ** (1 / 0.88), curve["any"], colour, label=f"L = {size}")
    if best is not None:
        left.axvline(best["value"], color="black", lw=1, label=f"measured {percent(best['value'])}")
        left.axvspan(best["low"], best["high"], color="black", alpha=0.08, lw=0)
    known = beside(record)
    if known is not None and known.value is not None:
        left.axvline(known.value, color="black", lw=1, ls=":", label=f"published {percent(known.value)}")
    varied = {"erasure": "erasure of one outcome", "error": "flip of one outcome", "mixed": "erasure of one outcome"}
    name = varied.get(study["noise"], "loss per fusion" if study["vary"] == "loss" else "failure of a fusion")
    left.set(
        xlabel=name, ylabel="any logical bit lost", ylim=(-0.02, 1.02), title=f"{study['network']}, {study['noise']}"
    )
    right.set(xlabel="(rate - threshold) L^(1/0.88)", title="laid over each other", ylim=(-0.02, 1.02))
    left.legend(frameon=False, fontsize=8)
    left.grid(alpha=0.2)
    right.grid(alpha=0.2)
    handle, work = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".png")
    os.close(handle)
    try:
        figure.savefig(work, dpi=130, metadata={"Software": None})
        os.chmod(work, 0o644)
        os.replace(work, path)
    except BaseException:
        Path(work).unlink(missing_ok=True)
        raise
    return True
