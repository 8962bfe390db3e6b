"""The suite ``fbqc``: a threshold as a report of erase-plugins. It measures no model and never imports torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from erase_plugins.options import option
from erase_plugins.types import Attachment, EvalReport, EvalRow

_STUDY = ("network", "noise", "shots", "low", "high", "points", "error", "vary", "geometry", "bootstrap")


@dataclass(frozen=True)
class Options:
    """Settings of the suite; the command ``fbqc scan`` has the same ones."""

    network: str = option("6ring", "Fusion network.", choices=("6ring", "4star"))
    noise: str = option("erasure", "What goes wrong.", choices=("erasure", "error", "mixed", "optics"))
    sizes: str = option("auto", "Code distances, with commas; auto: by the noise.")
    shots: int | None = option(None, "Shots per size (patterns for mixed noise); chosen by the noise if none.", low=100)
    low: float | None = option(None, "Low end of the varied rate.", low=0.0, high=1.0)
    high: float | None = option(None, "High end of the varied rate.", low=0.0, high=1.0)
    points: int | None = option(None, "Points of the curve.", low=3)
    error: float = option(0.005, "Flip rate of mixed noise.", low=0.0, high=0.5)
    vary: str = option("loss", "What optics varies.", choices=("loss", "failure"))
    fail: float = option(0.25, "Failure rate of a fusion.", low=0.0, high=1.0)
    photons: float | None = option(None, "Photons detected in a fusion; 1 / fail if none.", low=1.0)
    encoding: str = option("none", "Code on every qubit: none, shor22, or n,m.")
    lost_basis: str = option("random", "What a failure loses.", choices=("random", "XX", "ZZ"))
    orientation: str = option("random", "Orientation of the code.", choices=("random", "fixed"))
    geometry: str = option("cells", "Drawing of the 6-ring lattice.", choices=("cells", "rotated"))
    bootstrap: int = option(200, "Resampled experiments behind an interval.", low=1, high=10_000)


class ThresholdSuite:
    """Threshold of a fusion network (arXiv 2101.09310)."""

    id = "fbqc"
    title = "Thresholds of fusion-based quantum computation (simulated; no model)"
    needs: frozenset[str] = frozenset()
    needs_subject = False
    attachments = ("curves.png",)
    Options = Options

    def run(self, subject: Any, ctx: Any) -> EvalReport:
        """Simulates; the curves are in ``details["fbqc"]`` and drawn as ``curves.png``, thresholds are in the rows.

        Raises:
            RequestError: settings that cannot be simulated.
            MissingMatching: errors without PyMatching.
        """
        from erase_fbqc.result import FIGURE
        from erase_fbqc.study import Study, optics_from, parse_sizes, run, summary

        given = dict(ctx.options)
        optics = {name: given[name] for name in ("fail", "photons", "encoding", "lost_basis", "orientation")}
        study = Study(
            sizes=parse_sizes(given["sizes"]), optics=optics_from(**optics), seed=ctx.seed,
            **{name: given[name] for name in _STUDY},
        )  # fmt: skip
        result = run(study, progress=ctx.progress)
        rows = []
        for item in result.thresholds:
            subject = f"{study.network} L={'/'.join(map(str, item.sizes))}"
            metric = _metric(study.noise, study.vary, item.method)
            rows.append(EvalRow(metric, subject, item.value, item.low, item.high, study.count))
        record = summary(result)
        figure = Attachment(FIGURE, lambda path: _draw(record, path), "failure rate against the varied rate")
        return EvalReport(
            suite=self.id, model=f"{study.network} fusion network", rows=tuple(rows), seeds=(study.seed,),
            warnings=tuple(result.notes), details={"fbqc": record},
            attachments=(figure,),
        )  # fmt: skip


def _draw(record: dict[str, Any], path: Path) -> None:
    from erase_fbqc.figures import draw
    from erase_fbqc.result import MissingPlots

    if not draw(record, path):
        raise MissingPlots()


def _metric(noise: str, vary: str, method: str) -> str:
    name = {"optics": "loss_threshold" if vary == "loss" else "failure_threshold", "error": "error_threshold"}
    return name.get(noise, "erasure_threshold") + ("" if method == "crossing" else f"_{method}")
