"""The folder of a study: numbers, samples, figure and a section for a card."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from erase_fbqc.figures import draw
from erase_fbqc.published import TABLE, Published
from erase_fbqc.study import Result, summary
from erase_plugins.errors import ArtifactError, EraseError, RequestError

RESULT, SAMPLES, FIGURE, PAGE = "result.json", "samples.npz", "curves.png", "README.md"
_MOST_BYTES = 50_000_000


class MissingPlots(EraseError, ImportError):
    """matplotlib is not installed."""

    exit_code = 4

    def __init__(self) -> None:
        super().__init__("drawing needs matplotlib: pip install 'erase-plugins-fbqc[plot]'")


def refuse_existing(folder: Path, force: bool) -> None:
    """Asks before anything is simulated whether the folder may be written.

    Only the four files of a study are ever replaced; whatever else lies in the folder stays.

    Raises:
        RequestError: a file, a study without ``force``, or files of these names that no study wrote.
    """
    if folder.exists() and not folder.is_dir():
        raise RequestError(f"'{folder.name}' is a file; give a folder for --out")
    there = [name for name in (RESULT, SAMPLES, FIGURE, PAGE) if (folder / name).exists()]
    if not there:
        return
    try:
        read(folder / RESULT)
    except ArtifactError as error:
        raise RequestError(
            f"'{folder.name}' holds {', '.join(there)} that no study wrote; choose another --out"
        ) from error
    if not force:
        raise RequestError(f"'{folder.name}' holds a study already; choose another --out, or replace it with --force")


def write(result: Result, folder: Path) -> dict[str, Any]:
    """Writes a study and returns its record; every file is complete or absent."""
    folder.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    arrays: dict[str, NDArray[Any]] = {f"L{size}": values for size, values in result.samples.items()}
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    _replace(folder / SAMPLES, buffer.getvalue())
    record = {**summary(result), "samples": {"file": SAMPLES, "sha256": content_hash(arrays)}}
    if draw(record, folder / FIGURE):
        record["figure"] = FIGURE
    _replace(folder / PAGE, section(record).encode())
    _replace(folder / RESULT, (json.dumps(record, indent=1) + "\n").encode())
    return record


def content_hash(arrays: dict[str, NDArray[Any]]) -> str:
    """SHA-256 over the names and bytes of the samples, whatever the compression."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(name.encode() + str(arrays[name].dtype).encode() + np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()


def read(path: Path) -> dict[str, Any]:
    """The record of a study: its result.json, its folder, or the report.json of an evaluation with the suite.

    Raises:
        ArtifactError: missing, damaged, or something else.
    """
    path = path / RESULT if path.is_dir() else path
    if not path.is_file():
        raise ArtifactError(f"'{path.name}' is not there; give the result.json of a study")
    if path.stat().st_size > _MOST_BYTES:
        raise ArtifactError(f"'{path.name}' has {path.stat().st_size} bytes; that is no study")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        record = record.get("details", {}).get("fbqc") or record
        assert record["kind"] == "fbqc-study"
        assert record["schema"] == 1
        grid = np.asarray(record["grid"], float)
        curves = [np.asarray(item[name], float) for item in record["sizes"].values() for name in ("any", "low", "high")]
        assert all(curve.shape == grid.shape and np.isfinite(curve).all() for curve in curves)
        assert curves
    except (AssertionError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(
            f"'{path.name}' is no result of a study (or of a newer version); make one with 'fbqc scan'"
        ) from error
    return dict(record)


def beside(record: dict[str, Any]) -> Published | None:
    """The published number that a study measures, if there is one."""
    study = record["study"]
    name = f"{study['network']}-{study['noise']}"
    if (
        study["noise"] == "optics"
        and study["optics"]["lost_basis"] == "random"
        and study["optics"]["orientation"] == "random"
    ):
        code = {None: "bare", (2, 2): "shor22"}.get(study["optics"]["code"] and tuple(study["optics"]["code"]), "")
        name = f"{study['network']}-{code}-{'fusion-loss' if study['vary'] == 'loss' else 'failure'}"
        if study["vary"] == "loss" and study["optics"]["fail"] != 0.25:
            return None
    return next((item for item in TABLE if item.id == name), None)


def percent(value: float | None) -> str:
    """A share with as many digits as thresholds are quoted with."""
    return "-" if value is None else f"{100 * value:.2f} %" if value < 0.2 else f"{100 * value:.1f} %"


def section(record: dict[str, Any]) -> str:
    """Markdown for a card: the threshold beside the published one, and the curve."""
    study, best, known = record["study"], record["threshold"], beside(record)
    varied = f" ({study['vary']} varied)" if study["noise"] == "optics" else ""
    what = f"{study['network']} network, {study['noise']}{varied}"
    measured = "no crossing in range"
    if best is not None:
        interval = f"{percent(best['low'])} to {percent(best['high'])}"
        measured = f"{percent(best['value'])} ({interval}), L = {best['sizes'][0]} and {best['sizes'][-1]}"
    lines = [f"### Threshold: {what}", "", "| measured (95 %) | published |", "|---|---|"]
    source = f"{percent(known.value)}, {known.source}" if known is not None and known.value is not None else "not found"
    lines += [f"| {measured} | {source} |", ""]
    if record.get("figure"):
        lines += [f"![failure rate against the varied rate, one line per size]({record['figure']})", ""]
    lines += [f"- {note}" for note in record["notes"]]
    sizes = ", ".join(map(str, study["sizes"]))
    lines += [f"{study['shots']} shots a size, L = {sizes}, seed {study['seed']}; rates are per syndrome graph.", ""]
    return "\n".join(lines)


def _replace(path: Path, data: bytes) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
