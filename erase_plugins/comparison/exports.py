"""Tables of a comparison in the shape of a benchmark, as CSV and JSON.

Same columns, other protocol: every row says so, so that a row that is cut out still does. Means are over targets.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from erase_plugins.artifacts.atomic import atomic_file
from erase_plugins.comparison.shapes import BASE, MEAN, SHAPES, Row, Shape


def export_files(names: Sequence[str]) -> dict[str, str]:
    """What is written for the shapes: key of the summary's ``files`` -> file name."""
    return {f"{name}_{ending}": f"{name}.{ending}" for name in names for ending in ("csv", "json")}


def table(name: str, summary: Mapping[str, Any]) -> dict[str, Any]:
    """The table of a shape, JSON-ready.

    Args:
        name: of `SHAPES`.
        summary: of `comparison.summary.summarise`.

    Returns:
        ``columns`` (name -> definition), ``rows``, ``left_out`` (targets whose kind has no place in it), ``protocol``.
    """
    shape, how = SHAPES[name], summary["measured_by"]
    note = f"{shape.protocol}; here judge {how.get('judge')}, suite {how.get('suite')}, seed {how.get('seed')}"
    common = {"pictures": how.get("images"), "protocol": note}
    rows: list[Row] = []
    left_out: dict[str, str] = {}
    good = [cell for cell in summary["cells"] if cell["status"] == "ok"]
    for label, cells in _by_label(summary["labels"], good):
        found = []
        for cell in cells:
            if (row := _row(shape, label, cell)) is None:
                left_out[cell["cell"]["concept"]] = cell["cell"]["kind"]
            else:
                found.append(row)
        rows += [*found, *_means(shape, label, found)]
    return {
        "schema": 1, "shape": name, "protocol": note, "columns": dict(shape.columns), "left_out": left_out,
        "measured_by": dict(how),
        "rows": [{key: _rounded((row | common).get(key), shape.digits) for key in shape.columns} for row in rows],
    }  # fmt: skip


def _by_label(labels: Sequence[str], good: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, list[Any]]]:
    """The base on every target once, then every method."""
    first: dict[str, Any] = {}
    for cell in good:
        first.setdefault(cell["cell"]["concept"], cell)
    yield BASE, list(first.values())
    for label in labels:
        yield label, [cell for cell in good if cell["label"] == label]


def _row(shape: Shape, label: str, cell: Mapping[str, Any]) -> Row | None:
    kind, subject = cell["cell"]["kind"], "base" if label == BASE else "edited"
    rates = {key: (part[subject][0], part[subject][3]) for key, part in cell["rates"].items() if subject in part}
    made = shape.row(kind, rates)
    if made is None:
        return None
    first = {"method": label, "kind": kind, "target_name": cell["cell"]["concept"], "targets": 1}
    return first | {"minutes": None if label == BASE else cell["seconds"] / 60} | made


def _means(shape: Shape, label: str, rows: Sequence[Row]) -> list[Row]:
    kinds = list(dict.fromkeys(row["kind"] for row in rows)) if shape.by_kind else ["all"] * bool(rows)
    groups = [(kind, [row for row in rows if kind in ("all", row["kind"])]) for kind in kinds]
    return [
        {"method": label, "kind": kind, "target_name": MEAN, "targets": len(part), **shape.mean(part)}
        for kind, part in groups
    ]


def _rounded(value: Any, digits: int) -> Any:
    return round(value, digits) if isinstance(value, float) else value


def write_exports(names: Sequence[str], summary: Mapping[str, Any], out: Path) -> dict[str, str]:
    """Writes NAME.csv and NAME.json for each; returns what is where."""
    for name in names:
        made = table(name, summary)
        with atomic_file(out / f"{name}.json") as work:
            work.write_text(json.dumps(made, indent=1), encoding="utf-8")
        with atomic_file(out / f"{name}.csv") as work, work.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(made["columns"]))
            writer.writeheader()
            writer.writerows(made["rows"])
    return export_files(names)
