"""One cell of a comparison: a method on a concept, erased, measured and kept in a folder of its own."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from erase_plugins.artifacts.atomic import atomic_file
from erase_plugins.artifacts.manifest import ArtifactFile, slug
from erase_plugins.engine.own_preset import OwnPreset
from erase_plugins.manager import get_manager
from erase_plugins.types import EvalReport, Record

if TYPE_CHECKING:
    from erase_plugins.artifacts.artifact import Artifact

RESULT, PICTURES = "result.json", "pictures.png"
#: what the pictures of a cell show, from left to right
SHOWN = ("target, before", "target, after", "neighbour, before", "neighbour, after")


@dataclass(frozen=True)
class Cell(Record):
    """What is run and how it is measured; the same for every process that may work on it.

    Attributes:
        method, options: id of a method and its options where they are not the defaults.
        preset: a user's preset for it (`erase_plugins.engine.own_preset.OwnPreset` as a dictionary).
        concept, kind, keep: what to erase and what to hold.
        model, revision, dtype, device: the base.
        images, seed: pictures per prompt set; seed of everything random.
    """

    method: str
    concept: str
    options: Mapping[str, Any] = field(default_factory=dict)
    kind: str = "object"
    keep: tuple[str, ...] = ()
    model: str = "pocket"
    revision: str | None = None
    dtype: str = "float32"
    device: str = "cpu"
    images: int = 32
    seed: int = 0
    preset: Mapping[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """As for every record; a cell without a preset is named as it was before there were presets."""
        found = super().to_dict()
        return found if self.preset is not None else {key: found[key] for key in found if key != "preset"}

    @property
    def label(self) -> str:
        """Row of the table: the method, with its options where some were given."""
        own = [] if self.preset is None else [f"preset={self.preset['file']}"]
        return ":".join([self.method, *own, *(f"{name}={value}" for name, value in sorted(self.options.items()))])

    @property
    def key(self) -> str:
        """Name of the cell's folder: readable, and different for every difference."""
        text = json.dumps(self.to_dict(), sort_keys=True, default=str)
        return f"{slug(self.concept)}-{slug(self.label)}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"

    @property
    def base(self) -> tuple[Any, ...]:
        """Cells with equal bases share a loaded model."""
        return self.model, self.revision, self.dtype, self.device

    def request(self) -> dict[str, Any]:
        """Arguments of `erase_plugins.erase` besides model and method."""
        own = None if self.preset is None else OwnPreset.from_dict(self.preset)
        return {"keep": self.keep, "kind": self.kind, "options": dict(self.options), "preset": own, "seed": self.seed}


def run_cell(cell: Cell, pipe: Any, place: Path) -> dict[str, Any]:
    """Erases and measures; goes on from the checkpoint of an interrupted run.

    Args:
        cell: what to do.
        pipe: the loaded base, left as it was.
        place: folder of the cell; gets artifact, report, pictures.

    Returns:
        The result, JSON-ready: rates, change, cost. Rates are shares in 0..1 with 95 % intervals.

    Raises:
        EraseError: what the method or the measurement refuses.
    """
    import erase_plugins as ep

    place.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    with peak_memory() as memory:
        artifact = ep.erase(
            pipe, cell.concept, cell.method, out=place / "artifact", force=True, resume=True, **cell.request()
        )
    seconds = time.perf_counter() - started
    report = measured(cell, pipe, artifact, place)
    rates: dict[str, dict[str, list[float]]] = {}
    for row in report.rows:
        rates.setdefault(row.metric, {})[row.subject] = [row.value, row.low, row.high, row.n]
    manifest = artifact.manifest
    return {
        "schema": 1, "status": "ok", "label": cell.label, "cell": cell.to_dict(), "rates": rates,
        "change": report.details["change"], "warnings": list(report.warnings), "seconds": round(seconds, 2),
        "forwards": manifest.extra.get("numbers", {}).get("unet_forwards", 0), "peak_mb": memory["peak_mb"],
        "bytes": smallest(manifest.files), "kinds": list(manifest.kinds),
        "rank": manifest.rank, "method": dict(manifest.method), "options": dict(manifest.options),
        "measured_by": {
            "judge": report.judge, "judge_hash": report.judge_hash, "suite": report.suite,
            "images": cell.images, "seed": cell.seed, "sampler": report.details["sampler"],
            "base": manifest.base.get("fingerprint"),
        },
    }  # fmt: skip


def measured(cell: Cell, pipe: Any, artifact: Artifact, place: Path) -> EvalReport:
    """The report of the quick suite, in the folder ``report`` of ``place``, and what `SHOWN` names beside it."""
    from erase_plugins.evaluation.context import run_in_context
    from erase_plugins.workflow.measure import open_subject

    suite = get_manager().evaluator("quick", "suite")
    subject = open_subject(pipe, [artifact], suite, images=cell.images, seed=cell.seed)
    report = run_in_context(
        suite, subject, {}, seed=cell.seed, device=str(subject.target.device), out=place / "report", force=True
    )
    _show(subject.drawn, place / PICTURES)
    return report


def write_result(place: Path, result: Mapping[str, Any]) -> None:
    """Writes the result, last and atomically: its presence says that the cell is finished."""
    place.mkdir(parents=True, exist_ok=True)
    with atomic_file(place / RESULT) as work:
        work.write_text(json.dumps(result, indent=1, sort_keys=True, default=str), encoding="utf-8")


def read_result(place: Path) -> dict[str, Any] | None:
    """The result of a cell; None if it is missing or damaged."""
    try:
        found = json.loads((place / RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and "status" in found else None


def finished(place: Path) -> bool:
    """Whether nothing is left to do; failed cells are tried again."""
    found = read_result(place)
    return found is not None and found["status"] != "failed"


@contextmanager
def peak_memory(every: float = 0.02) -> Iterator[dict[str, float]]:
    """Largest resident size of this process within the block, sampled; ``peak_mb`` is filled at its end."""
    import psutil

    process = psutil.Process()
    found = {"peak_mb": process.memory_info().rss / 1e6}
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(every):
            found["peak_mb"] = max(found["peak_mb"], process.memory_info().rss / 1e6)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        stop.set()
        thread.join()
        found["peak_mb"] = round(max(found["peak_mb"], process.memory_info().rss / 1e6))


def smallest(files: Iterable[ArtifactFile]) -> int:
    """Bytes of the smallest layout; one may be several files, such as weights and their configuration."""
    sizes: dict[str, int] = {}
    for item in files:
        sizes[item.layout] = sizes.get(item.layout, 0) + item.bytes
    return min(sizes.values(), default=0)


def _show(drawn: Mapping[str, Any], path: Path) -> None:
    """Writes the first measured pictures of the target and of a neighbour side by side, see `SHOWN`."""
    from PIL import Image

    from erase_plugins.evaluation.sheet import to_image

    base, edited = drawn["base"].pictures, drawn["edited"].pictures
    names = ("target", "neighbour" if len(base["neighbour"]) else "kept")
    pictures = [to_image(part[name][0]) for name in names for part in (base, edited)]
    strip = Image.new("RGB", (sum(item.width for item in pictures), pictures[0].height))
    for index, item in enumerate(pictures):
        strip.paste(item, (index * item.width, 0))
    with atomic_file(path) as work:
        strip.save(work, format="PNG")
