"""Unlearners of classifiers against each other: forget sets, methods, seeds; UA, RA, TA, MIA and the gap to `retrain`.

A cell is a method on a set with a seed. Finished cells are kept, so that the same call goes on after an interruption.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from erase_plugins import hints
from erase_plugins.artifacts.atomic import atomic_file
from erase_plugins.artifacts.locks import locked
from erase_plugins.artifacts.manifest import slug
from erase_plugins.artifacts.places import FILE, check_place
from erase_plugins.comparison.cells import read_result, write_result
from erase_plugins.comparison.run import CELLS, DATA, TABLE
from erase_plugins.data import DataRef
from erase_plugins.errors import EraseError, RequestError, RunCancelled
from erase_plugins.families import forget_set
from erase_plugins.families.labelled_data import pool_of, stored
from erase_plugins.families.labels import class_number
from erase_plugins.manager import get_manager
from erase_plugins.options import as_dict, resolve

#: the method that the others are held against
RETRAIN = "retrain"
METRICS = ("ua", "ra", "ta", "mia", "auc", "tpr")
#: 97.5 % points of Student's t for 1, 2, ... degrees of freedom
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)


@dataclass(frozen=True)
class Plan:
    """What is compared.

    Attributes:
        model: name, path or Hub id of a classifier.
        methods: (id, options) of each; the retrained model belongs to them.
        sets: name -> files of forget sets; seed number i takes the file i, in turns.
        seeds: of the methods.
        retain: the data that the sets were made of; None are those beside the model.
    """

    model: str
    methods: Sequence[tuple[str, Mapping[str, Any]]]
    sets: Mapping[str, Sequence[str | Path]]
    seeds: Sequence[int] = (0,)
    retain: str | None = None


def compare_sets(
    plan: Plan, out: Path, *, command: str = "erase_plugins.comparison.unlearners.compare_sets",
    progress: Callable[[int, int], None] | None = None, **load: Any,
) -> dict[str, Any]:  # fmt: skip
    """Runs what is missing and writes table.md and comparison.json.

    Args:
        plan: what is compared.
        out: folder; finished cells in it are kept, failed ones tried again.
        command: how the user made it, for the table.
        progress: called with (finished, all).
        load: revision, dtype, device.

    Returns:
        ``sets``: name -> label -> metric -> (mean, low, high) over seeds, shares in 0..1; ``failed``; ``files``.

    Raises:
        RequestError: no set, no method, or a set that does not fit the data.
        ArtifactError: a file that would be written is somebody else's.
    """
    from erase_plugins.workflow.models import as_target

    if not plan.methods or not plan.sets or not plan.seeds:
        raise RequestError("nothing to compare; name methods, forget sets and seeds")
    for name in (TABLE, DATA):
        check_place(out / name, True, FILE)
    with locked(out / DATA):
        target = as_target(plan.model, **load)
        parts = {str(file): _parts(target, plan, file) for files in plan.sets.values() for file in files}
        cells = [
            (name, Path(files[number % len(files)]), method, dict(options), seed)
            for name, files in plan.sets.items()
            for number, seed in enumerate(plan.seeds)
            for method, options in plan.methods
        ]
        results = []
        for done, (name, file, method, options, seed) in enumerate(cells):
            if progress is not None:
                progress(done, len(cells))
            place = out / CELLS / _key(target, plan, file, method, options, seed)
            found = read_result(place)
            if found is None or found["status"] == "failed":
                found = _run(target, plan, parts[str(file)], file, method, options, seed)
                write_result(place, found)
            results.append({**found, "set": name, "label": _label(method, options), "seed": seed})
        if progress is not None:
            progress(len(cells), len(cells))
        summary = summarise(results)
        summary |= {"measured_by": {"model": target.info.model, "seeds": list(plan.seeds)}, "cells": results}
        with atomic_file(out / DATA) as work:
            work.write_text(json.dumps(summary, indent=1, sort_keys=True), encoding="utf-8")
        with atomic_file(out / TABLE) as work:
            work.write_text(f"# Methods compared\n\nMade by `{command}`.\n\n{markdown(summary)}", encoding="utf-8")
    return {**summary, "files": {"table": TABLE, "data": DATA}}


def _parts(target: Any, plan: Plan, file: str | Path) -> Any:
    """The pictures that a set divides."""
    import torch

    from erase_plugins.evaluation.unlearning import Parts

    found, model = forget_set.read_set(file), target.info.model
    pool, told = pool_of(target, None if plan.retain is None else DataRef(plan.retain))
    held = stored(target, "test")
    if held is None:
        raise RequestError(f"there are no held-out pictures beside {model}; pictures.safetensors has to hold some")
    if found.wise == forget_set.DATA:
        mask = torch.zeros(len(pool), dtype=torch.bool)
        mask[found.mask(len(pool), told["sha256"], told["name"])] = True
        return Parts.of(pool, held, mask, ())
    if found.wise != forget_set.CLASS:
        raise RequestError(f"'{Path(file).name}' holds concepts of a text-to-image model, and {model} is a classifier")
    classes = [class_number(name, target.classifier.labels, model) for name in found.names]
    return Parts.of(pool, held, pool.where(classes), classes)


def _key(target: Any, plan: Plan, file: Path, method: str, options: Mapping[str, Any], seed: int) -> str:
    base = {name: item.short for name, item in target.fingerprint().items()}
    used = _in_force(target, method, options)
    text = json.dumps([base, forget_set.file_hash(file), plan.retain, method, used, seed], sort_keys=True, default=str)
    return f"{slug(_label(method, options))}-{slug(file.stem)}-{seed}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _in_force(target: Any, method: str, options: Mapping[str, Any]) -> Mapping[str, Any]:
    """All options as they will be, so that a cell of other defaults is not taken for this one."""
    try:
        return as_dict(resolve(get_manager().method(method).Options, options, target.info.profiles))
    except EraseError:  # the cell itself says what is wrong
        return options


def _label(method: str, options: Mapping[str, Any]) -> str:
    return ":".join([method, *(f"{name}={value}" for name, value in sorted(options.items()))])


def _run(
    target: Any, plan: Plan, parts: Any, file: Path, method: str, options: Mapping[str, Any], seed: int
) -> dict[str, Any]:
    """Forgets and measures; what fails is written down."""
    import erase_plugins as ep
    from erase_plugins.evaluation.unlearning import measure
    from erase_plugins.runtime.apply import apply_to

    items = forget_set.items_of(DataRef(str(file)))
    keep = [] if plan.retain is None else [DataRef(plan.retain)]
    try:
        made = ep.erase(target, items, method, keep=keep, options=dict(options), seed=seed)
        with apply_to(target, made, 1.0):
            values = measure(target, parts, seed)
    except RunCancelled:
        raise
    except Exception as error:  # a broken plugin costs its own cell
        kind = "" if isinstance(error, EraseError) else f"{type(error).__name__}: "
        return {"schema": 1, "status": "failed", "error": f"{kind}{hints.stored(error)}"}
    return {"schema": 1, "status": "ok", "values": values, "seconds": made.manifest.seconds}


def summarise(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means over seeds with 95 % intervals, and the gap of each seed to the mean of `retrain` on the same set."""
    from erase_plugins.evaluation.unlearning import gap

    table: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(item["set"] for item in results):
        good = [item for item in results if item["set"] == name and item["status"] == "ok"]
        aim = [item["values"] for item in good if item["label"].partition(":")[0] == RETRAIN]
        mean = {metric: sum(item[metric] for item in aim) / len(aim) for metric in METRICS} if aim else None
        table[name] = {}
        for label in dict.fromkeys(item["label"] for item in results):
            mine = [item for item in good if item["label"] == label]
            if not mine:
                continue
            row = {metric: interval([item["values"][metric] for item in mine]) for metric in METRICS}
            row["seconds"] = interval([item["seconds"] for item in mine])
            if mean is not None:
                row["gap"] = interval([gap(item["values"], mean) for item in mine])
            table[name][label] = {**{key: [round(part, 6) for part in value] for key, value in row.items()},
                                  "seeds": len(mine)}  # fmt: skip
    failed = {f"{item['label']}, {item['set']}, seed {item['seed']}": item["error"]
              for item in results if item["status"] != "ok"}  # fmt: skip
    return {"schema": 1, "sets": table, "failed": failed}


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean with the 95 % interval of Student's t; of one value the interval is open and given as the value."""
    mean = sum(values) / len(values)
    if len(values) < 2:
        return mean, mean, mean
    spread = math.sqrt(sum((item - mean) ** 2 for item in values) / (len(values) - 1) / len(values))
    t = _T[len(values) - 2] if len(values) - 2 < len(_T) else 1.96
    return mean, mean - t * spread, mean + t * spread


def markdown(summary: Mapping[str, Any]) -> str:
    """The tables, one per set."""
    lines = [
        "UA is the share of wrong labels on what is forgotten, RA and TA of right ones on retained and held-out "
        "pictures, MIA the share of forgotten pictures that a confidence attack takes for unseen ones, AUC that of the "
        "loss attack (forgotten against held-out). All in %, but seconds; mean over seeds +- half of the 95 % interval "
        "(Student's t). No column is better when higher: the aim is the row of `retrain`, and the gap is the mean "
        "distance of UA, RA, TA and MIA from it.",
        "",
    ]
    for name, rows in summary["sets"].items():
        lines += [f"## {name}", "", "| method | seeds | UA | RA | TA | MIA | AUC | gap | seconds |", "|---" * 9 + "|"]
        for label, row in rows.items():
            cells = [_cell(row.get(metric), 100) for metric in ("ua", "ra", "ta", "mia", "auc", "gap")]
            lines.append(f"| {label} | {row['seeds']} | {' | '.join(cells)} | {row['seconds'][0]:.1f} |")
        lines.append("")
    if summary["failed"]:
        lines += ["## failed", "", *(f"- {name}: {reason}" for name, reason in summary["failed"].items()), ""]
    return "\n".join(lines)


def _cell(row: Sequence[float] | None, scale: float) -> str:
    if row is None:
        return "-"
    half = scale * (row[2] - row[1]) / 2
    return f"{scale * row[0]:.1f}" + (f" +- {half:.1f}" if half else "")
