"""The robustness curve: recall against erasure and insertion, for several loads, learned one by one under noise."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from erase_assoc_memory.learning import learn_majority, noisy
from erase_assoc_memory.memory import CliqueMemory
from erase_plugins.errors import RequestError

CURVE, FIGURE = "robustness.json", "robustness.png"
ERASED = tuple(round(0.1 * step, 1) for step in range(10))
INSERTED = (0.0, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3)


@dataclass(frozen=True)
class Setting:
    """What is drawn: network, loads (numbers of codes), noise while learning, cues per point."""

    clusters: int = 8
    letters: int = 64
    loads: tuple[int, ...] = (50, 150, 300, 600)
    learn_erased: float = 0.2
    learn_inserted: float = 0.02
    presentations: int = 20
    cues: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value in (("erasure", self.learn_erased), ("insertion", self.learn_inserted)):
            if not 0 <= value < 1:
                raise RequestError(f"{name} while learning {value!r}: a probability from 0 to below 1 is needed")
        if not self.loads or min(self.loads) < 1 or len(set(self.loads)) < len(self.loads):
            raise RequestError(f"loads {', '.join(map(str, self.loads))}: different numbers from 1 upwards are needed")
        if self.presentations < 1 or self.cues < 10:
            raise RequestError(f"{self.presentations} presentations and {self.cues} cues: at least 1 and 10 are needed")


def measure(setting: Setting, progress: Callable[[str, int, int], None] | None = None) -> dict[str, Any]:
    """Shares of exactly recalled codes, for codes learned one by one under noise and for a clean memory beside it."""
    rng = np.random.default_rng(setting.seed)
    codes = rng.integers(0, setting.letters, (max(setting.loads), setting.clusters))
    learned = CliqueMemory(setting.clusters, setting.letters, density_max=1.0)
    clean = CliqueMemory(setting.clusters, setting.letters, density_max=1.0)
    curves = []
    for number, code in enumerate(codes, 1):
        seen = noisy(learned, code, setting.presentations, setting.learn_erased, setting.learn_inserted, rng)
        learn_majority(learned, seen, setting.learn_erased)
        clean.store(code)
        if number in setting.loads:
            wanted = codes[rng.integers(0, number, setting.cues)]
            curves.append({
                "load": number, "density": learned.density, "clean_density": clean.density,
                "erasure": [_recalled(learned, wanted, rate, 0.0, rng) for rate in ERASED],
                "erasure_clean": [_recalled(clean, wanted, rate, 0.0, rng) for rate in ERASED],
                "insertion": [_recalled(learned, wanted, 0.0, rate, rng) for rate in INSERTED],
                "insertion_clean": [_recalled(clean, wanted, 0.0, rate, rng) for rate in INSERTED],
            })  # fmt: skip
        if progress is not None:
            progress("learning", number, len(codes))
    return {"schema": 1, "kind": "assoc-memory-robustness", "setting": {**vars(setting), "loads": list(setting.loads)},
            "erased": list(ERASED), "inserted": list(INSERTED), "curves": curves}  # fmt: skip


def _recalled(memory: CliqueMemory, codes: Any, erased: float, inserted: float, rng: np.random.Generator) -> float:
    cues = np.concatenate([noisy(memory, code, 1, erased, inserted, rng) for code in codes])
    return float((memory.recall(cues).codes == codes).all(1).mean())


def write(record: dict[str, Any], folder: Path) -> Sequence[str]:
    """Writes the curve as JSON and, with matplotlib, as a figure; returns the names."""
    folder.mkdir(parents=True, exist_ok=True)
    _replace(folder / CURVE, lambda path: Path(path).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8"))
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return [CURVE]
    figure = Figure(figsize=(9.5, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, name, rates in zip(
        figure.subplots(1, 2, sharey=True), ("erasure", "insertion"), ("erased", "inserted"), strict=True
    ):
        for number, curve in enumerate(record["curves"]):
            label = f"{curve['load']} codes, density {curve['density']:.2f}"
            axes.plot(record[rates], curve[name], f"C{number}o-", ms=3, label=label)
            axes.plot(record[rates], curve[f"{name}_clean"], f"C{number}:", lw=1)
        axes.set(xlabel=f"{name} of the cue", ylim=(-0.03, 1.03))
        axes.grid(alpha=0.2)
    figure.axes[0].set_ylabel("recalled exactly")
    figure.axes[0].legend(frameon=False, fontsize=8)
    figure.axes[1].plot([], [], "k:", lw=1, label="stored without noise")
    figure.axes[1].legend(frameon=False, fontsize=8)
    _replace(folder / FIGURE, lambda path: figure.savefig(path, dpi=130, format="png", metadata={"Software": None}))
    return [CURVE, FIGURE]


def refuse_existing(folder: Path, force: bool) -> None:
    """Raises RequestError if the folder is a file, or holds a curve or files that are not to be replaced."""
    if folder.exists() and not folder.is_dir():
        raise RequestError(f"'{folder.name}' is a file; give a folder for --out")
    if not (folder / CURVE).exists():
        if (folder / FIGURE).exists():
            raise RequestError(
                f"'{folder.name}' holds a {FIGURE} that no curve of ours belongs to; choose another --out"
            )
        return
    try:
        ours = json.loads((folder / CURVE).read_text(encoding="utf-8"))["kind"] == "assoc-memory-robustness"
    except (ValueError, KeyError, TypeError, OSError):
        ours = False
    if not ours:
        raise RequestError(f"'{folder.name}' holds a {CURVE} of another program; choose another --out")
    if not force:
        raise RequestError(f"'{folder.name}' holds a curve already; choose another --out, or replace it with --force")


def _replace(path: Path, save: Callable[[str], object]) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        save(name)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
