"""The comparison: which cells, where they run, what is written."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from erase_plugins.artifacts.atomic import atomic_file
from erase_plugins.artifacts.locks import locked
from erase_plugins.artifacts.places import FILE, check_place
from erase_plugins.comparison import executors
from erase_plugins.comparison.cells import RESULT, Cell, finished, read_result, write_result
from erase_plugins.comparison.exports import export_files, write_exports
from erase_plugins.comparison.figures import PARETO, SHEET, pareto, sheet
from erase_plugins.comparison.reuse import reusable
from erase_plugins.comparison.summary import markdown, summarise
from erase_plugins.engine.own_preset import OwnPreset, load_preset
from erase_plugins.errors import MissingExtra, RequestError
from erase_plugins.hints import Hint, sentence_of
from erase_plugins.manager import get_manager
from erase_plugins.needs import changes_weights
from erase_plugins.plain_text import first_line
from erase_plugins.workflow.run import known_models

CELLS, TABLE, DATA = "cells", "table.md", "comparison.json"


def parse_methods(texts: Sequence[str]) -> list[tuple[str, dict[str, str]]]:
    """Methods with options: ``all``, ``uce,rece``, ``uce:aliases=true:lam=0.5``.

    Raises:
        UnknownName: no such method.
        RequestError: an option without '='.
    """
    manager = get_manager()
    found: list[tuple[str, dict[str, str]]] = []
    for text in (part.strip() for item in texts for part in item.split(",") if part.strip()):
        if text == "all":
            found += [(entry.item.id, {}) for entry in manager.methods() if changes_weights(entry.item)]
            continue
        name, *settings = text.split(":")
        bad = [part for part in settings if "=" not in part]
        if bad:
            raise RequestError(f"'{text}': {bad[0]} is not key=value; for example {name}:seed=1")
        pairs = (part.split("=", 1) for part in settings)
        found.append((manager.method(name).id, {key.strip().replace("-", "_"): value for key, value in pairs}))
    if not found:
        raise RequestError("no method was named; add ", Hint("methods"), " all, or ", Hint("methods"), " uce,esd")
    return [item for place, item in enumerate(found) if item not in found[:place]]


def read_presets(files: Sequence[str], methods: Sequence[str]) -> dict[str, OwnPreset]:
    """Presets of the compared methods: method -> preset.

    Args:
        files: TOML files; each says ``method = "..."`` unless a single method is compared.
        methods: ids of the compared methods.

    Raises:
        RequestError: a file is for none of them, or two are for one.
        UnknownName: a table or an option that does not exist.
    """
    found: dict[str, OwnPreset] = {}
    for own in map(load_preset, files):
        if own.method is None and len(set(methods)) > 1:
            raise RequestError(
                f"{own.where} does not say which of the compared methods it is for; "
                f'begin it with method = "{methods[0]}"'
            )
        method = own.method or methods[0]
        if method not in methods:
            raise RequestError(
                f"{own.where} is for {method}, which is not compared ({', '.join(sorted(set(methods)))})"
            )
        if method in found:
            raise RequestError(f"{found[method].where} and {own.where} are both for {method}; give one of them")
        own.check(get_manager().method(method), known_models())
        found[method] = own
    return found


def make_cells(
    concepts: Mapping[str, str],
    methods: Sequence[tuple[str, dict[str, str]]],
    *,
    presets: Mapping[str, OwnPreset] | None = None,
    **common: Any,
) -> list[Cell]:
    """Every method on every concept (text -> kind), concept by concept; ``common`` are the other fields of `Cell`."""
    keep = tuple(common.pop("keep", ()))
    own = {method: preset.to_dict() for method, preset in (presets or {}).items()}
    return [
        Cell(
            method, text, options, kind, tuple(word for word in keep if word != text), preset=own.get(method), **common
        )
        for text, kind in concepts.items()
        for method, options in methods
    ]


def plan_cells(cells: Sequence[Cell]) -> tuple[dict[str, Any], dict[str, str]]:
    """Plans of the cells that can run, and for the others why not; loads no weights."""
    import erase_plugins as ep
    from erase_plugins.errors import EraseError

    plans, reasons = {}, {}
    for cell in cells:
        method = get_manager().method(cell.method)
        if cell.kind not in method.kinds:
            reasons[cell.key] = f"{cell.method} does not claim concepts of the kind {cell.kind}"
            continue
        loading = {"revision": cell.revision, "dtype": cell.dtype, "device": cell.device}
        try:
            plans[cell.key] = ep.plan(cell.model, cell.concept, cell.method, **cell.request(), **loading)
        except EraseError as error:
            reasons[cell.key] = sentence_of(error)
    return plans, reasons


def compare(
    cells: Sequence[Cell],
    out: Path,
    *,
    jobs: int = 1,
    ray: str | None = None,
    reuse: str | Path | None = None,
    command: str = "erase_plugins.comparison.run.compare",
    progress: Callable[[int, int], None] | None = None,
    prepare: executors.Prepare | None = None,
    exports: Sequence[str] = (),
) -> dict[str, Any]:
    """Runs what is missing and writes table, data and figures.

    Args:
        cells: from `make_cells`.
        out: folder; finished cells in it are kept, failed ones tried again.
        jobs: processes on this machine.
        ray: address of a Ray cluster to use instead.
        reuse: ``comparison.json`` whose results stand for equal cells (see `comparison.reuse`).
        command: how the user made it, for the table.
        progress: called with (finished, all).
        prepare: sets up every process.
        exports: names of `comparison.exports.SHAPES` that are written too.

    Returns:
        The summary (see `comparison.summary.summarise`) with ``files``, ``unwritten`` (file -> why it is missing) and
        ``todo`` (cells that were run now).

    Raises:
        ArtifactError: a file that would be written is somebody else's, or another comparison is writing there.
        RequestError: nothing to compare, or cells that cannot be averaged.
        MissingExtra: ray is not installed.
    """
    if not cells:
        raise RequestError("nothing to compare; name concepts and methods")
    for name in (TABLE, DATA, SHEET, PARETO, *export_files(exports).values()):
        check_place(out / name, True, FILE)
    with locked(out / DATA):
        summary = _compare(cells, out, jobs, ray, reuse, command, progress, prepare)
        return {**summary, "files": {**summary["files"], **write_exports(exports, summary, out)}}


def _compare(
    cells: Sequence[Cell], out: Path, jobs: int, ray: str | None, reuse: str | Path | None, command: str,
    progress: Callable[[int, int], None] | None, prepare: executors.Prepare | None,
) -> dict[str, Any]:  # fmt: skip
    folder = out / CELLS
    folder.mkdir(parents=True, exist_ok=True)
    plans, reasons = plan_cells(cells)
    taken = reusable(cells, plans, reuse)
    for cell in cells:
        if cell.key in taken and not finished(folder / cell.key):
            write_result(folder / cell.key, taken[cell.key])
        if cell.key in reasons:
            write_result(folder / cell.key, {**executors.failure(cell, reasons[cell.key]), "status": "skipped"})
    todo = [cell for cell in cells if not finished(folder / cell.key)]
    for cell in todo:
        (folder / cell.key / RESULT).unlink(missing_ok=True)
    before = len(cells) - len(todo)
    tell = partial(_tell, progress, before, len(cells))
    if todo:
        run = executors.run_here
        if ray is not None:
            run = partial(executors.run_ray, address=ray)
        elif jobs > 1:
            run = partial(executors.run_processes, jobs=jobs)
        run(grouped(todo), folder, tell, prepare)
    places = {cell.key: folder / cell.key for cell in cells}
    results = [{**found, "key": cell.key} for cell in cells if (found := read_result(places[cell.key])) is not None]
    summary = summarise(results)
    return {**summary, **_write(summary, places, out, command), "todo": [cell.key for cell in todo]}


def grouped(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Cells of one base and concept together."""
    groups: dict[tuple[Any, ...], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((*cell.base, cell.concept), []).append(cell)
    return list(groups.values())


def _tell(progress: Callable[[int, int], None] | None, before: int, total: int, done: int) -> None:
    if progress is not None:
        progress(before + done, total)


def _write(summary: Mapping[str, Any], places: Mapping[str, Path], out: Path, command: str) -> dict[str, Any]:
    """Writes the files; returns what is where, and by file why a figure could not be written."""
    files = {"table": TABLE, "data": DATA}
    with atomic_file(out / DATA) as work:
        work.write_text(json.dumps(summary, indent=1, sort_keys=True, default=str), encoding="utf-8")
    drawings: dict[str, tuple[str, Callable[[], Path | None]]] = {
        "contact_sheet": (SHEET, lambda: sheet(summary["cells"], places, out / SHEET)),
        "pareto": (PARETO, lambda: pareto(summary, out / PARETO)),
    }
    unwritten = {}
    for key, (name, draw) in drawings.items():
        try:
            if draw() is not None:
                files[key] = name
        except MissingExtra:
            pass  # the command line says so
        except Exception as error:  # the numbers are not lost to a figure
            unwritten[name] = first_line(error)
    titles = {"pareto": "Left of the concept against what is lost", "contact_sheet": "Pictures before and after"}
    figures = {title: files[name] for name, title in titles.items() if name in files}
    with atomic_file(out / TABLE) as work:
        work.write_text(markdown(summary, command, datetime.now(UTC).strftime("%Y-%m-%d"), figures), encoding="utf-8")
    return {"files": files, "unwritten": unwritten}
