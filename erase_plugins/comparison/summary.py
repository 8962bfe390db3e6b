"""From cells to one table: means over concepts with intervals, costs, and the same per concept."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from erase_plugins.errors import RequestError
from erase_plugins.hints import ANOTHER_OUT

METRICS = ("target_rate", "synonym_rate", "neighbour_rate", "kept_rate", "style_rate", "background_rate")
_PER_CONCEPT = ("target_rate", "synonym_rate", "kept_rate")
Result = Mapping[str, Any]


def summarise(results: Sequence[Result]) -> dict[str, Any]:
    """One row per method and kind of concept, over all concepts of that kind.

    Args:
        results: of cells, finished or failed.

    Returns:
        ``kinds`` (kind -> ``base`` and ``rows``: label -> metric -> mean, low, high in 0..1; change of what is kept in
        points; mean cost), ``failed`` and ``skipped`` cells, ``measured_by``.

    Raises:
        RequestError: the cells were measured in different ways; names what differs.
    """
    good = [result for result in results if result["status"] == "ok"]
    check_comparable(good)
    labels = list(dict.fromkeys(result["label"] for result in results))
    one_each = {result["cell"]["concept"]: result for result in good}
    kinds: dict[str, Any] = {}
    for kind in dict.fromkeys(result["cell"]["kind"] for result in results):
        of_kind = [result for result in good if result["cell"]["kind"] == kind]
        kinds[kind] = {
            "base": _rates([result for result in one_each.values() if result["cell"]["kind"] == kind], "base"),
            "rows": {label: _row([result for result in of_kind if result["label"] == label]) for label in labels},
        }
    return {
        "schema": 1,
        "concepts": list(dict.fromkeys(result["cell"]["concept"] for result in results)),
        "measured_by": good[0]["measured_by"] if good else {},
        "labels": labels,
        "kinds": kinds,
        "failed": {f"{item['label']}, {item['cell']['concept']}": item["error"]
                   for item in results if item["status"] == "failed"},
        "skipped": {f"{item['label']}, {item['cell']['concept']}": item["error"]
                    for item in results if item["status"] == "skipped"},
        "controls": {
            "destroyed_kept_rate": _mean([item["rates"]["kept_rate"]["destroyed"][0] for item in one_each.values()]),
            "warnings": sorted({text for item in good for text in item["warnings"]}),
        },
        "cells": list(results),
    }  # fmt: skip


def check_comparable(results: Sequence[Result]) -> None:
    """Refuses to average what was measured by different judges, seeds, samplers or on different bases."""
    seen: dict[str, set[str]] = {}
    for result in results:
        for name, value in result["measured_by"].items():
            seen.setdefault(name, set()).add(json.dumps(value, sort_keys=True, default=str))
    differing = sorted(name for name, values in seen.items() if len(values) > 1)
    if differing:
        raise RequestError(
            f"these cells differ in {', '.join(differing)} and cannot be averaged; compare into ",
            ANOTHER_OUT,
            " folder",
        )


def _row(results: Sequence[Result]) -> dict[str, Any]:
    if not results:
        return {"concepts": 0}
    kept = [[100 * number for number in result["change"]["kept_rate"]] for result in results]
    return {
        "concepts": len(results),
        "rates": _rates(results, "edited"),
        "kept_change_points": [round(value, 3) for value in _over_concepts(kept, pictures=0)],
        **{name: _mean([result[name] for result in results]) for name in ("seconds", "forwards", "peak_mb", "bytes")},
    }


def _rates(results: Sequence[Result], subject: str) -> dict[str, list[float]]:
    out = {}
    for metric in METRICS:
        found = [item["rates"][metric][subject] for item in results if subject in item["rates"].get(metric, {})]
        if found:
            interval = _over_concepts(found, pictures=sum(int(row[3]) for row in found))
            out[metric] = [round(number, 6) for number in interval]
    return out


def _over_concepts(found: Sequence[Sequence[float]], pictures: int) -> Sequence[float]:
    """Mean with its interval over concepts; one concept has no spread over concepts, so its own over pictures stands.

    Args:
        found: value, low and high of each concept.
        pictures: as for `mean_interval`.
    """
    from erase_plugins.evaluation.bootstrap import mean_interval

    return found[0][:3] if len(found) == 1 else mean_interval([row[0] for row in found], pictures=pictures)


def _mean(values: Sequence[float]) -> float:
    return round(sum(values) / len(values), 3) if values else 0.0


def markdown(summary: Mapping[str, Any], command: str, date: str, figures: Mapping[str, str] | None = None) -> str:
    """The table for people, with the command that makes it again and its figures (title -> file beside it)."""
    labels, concepts = summary["labels"], summary["concepts"]
    how = summary["measured_by"]
    lines = [
        "# Methods compared",
        "",
        f"Made by `{command}` on {date}: {len(concepts)} concepts, {how.get('images', 0)} pictures per concept and "
        "prompt set. Rates are shares of pictures in which the judge sees what the prompt names; synonyms are never "
        "given to a method. Intervals are 95 % bootstrap over concepts, over pictures where there is one concept only. "
        "Seconds, forward passes (samples through the denoiser), peak memory and bytes are means per concept.",
        "",
        *(line for title, file in (figures or {}).items() for line in (f"![{title}]({file})", "")),
    ]
    for kind, part in summary["kinds"].items():
        lines += [*([f"## Kind: {kind}", ""] if len(summary["kinds"]) > 1 else []), *_table(part), ""]
    lines += ["## Per concept (target / synonyms / kept)", "", "| concept | " + " | ".join(labels) + " |"]
    lines.append("|---" * (len(labels) + 1) + "|")
    table = {(cell["label"], cell["cell"]["concept"]): cell for cell in summary["cells"]}
    for concept in concepts:
        lines.append(f"| {concept} | " + " | ".join(_entry(table.get((label, concept))) for label in labels) + " |")
    controls = summary["controls"]
    reused = sum(bool(cell.get("reused")) for cell in summary["cells"])
    taken = f" {reused} of {len(table)} cells are results of an earlier comparison." if reused else ""
    warned = f" Warnings: {'; '.join(controls['warnings'])}." if controls["warnings"] else ""
    lines += ["", f"Controls: a destroyed model keeps {controls['destroyed_kept_rate']:.1%}; pictures at strength 0 "
              f"are compared with the base's in every cell.{taken}{warned}"]  # fmt: skip
    for title in ("failed", "skipped"):
        if summary[title]:
            lines += ["", f"## {title.capitalize()}", ""]
            lines += [f"- {name}: {reason}" for name, reason in summary[title].items()]
    return "\n".join(lines) + "\n"


def _table(part: Mapping[str, Any]) -> list[str]:
    lines = [
        "| method | concepts | target | synonyms | neighbours | kept | kept, change (points) | style | background "
        "| seconds | forwards | peak MB | smallest file |",
        "|---" * 13 + "|",
        "| base model | " + " | ".join(["-", *_shown(part["base"], "-"), "-", "-", "-", "-"]) + " |",
    ]
    for label, row in part["rows"].items():
        if not row["concepts"]:
            lines.append(f"| {label} | 0 |" + " - |" * 11)
            continue
        change = "{:+.1f}".format(row["kept_change_points"][0])
        costs = [f"{row['seconds']:.1f}", f"{row['forwards']:.0f}", f"{row['peak_mb']:.0f}", _size(row["bytes"])]
        lines.append(f"| {label} | " + " | ".join([str(row["concepts"]), *_shown(row["rates"], change), *costs]) + " |")
    return lines


def _shown(rates: Mapping[str, Sequence[float]], change: str) -> list[str]:
    parts = []
    for metric in METRICS:
        found = rates.get(metric)
        parts.append("-" if found is None else f"{found[0]:.1%} ({found[1]:.1%}..{found[2]:.1%})")
        if metric == "kept_rate":
            parts.append(change)
    return parts


def _entry(result: Result | None) -> str:
    if result is None or result["status"] != "ok":
        return "-" if result is None else str(result["status"])
    rates = result["rates"]
    return " / ".join(f"{rates[name]['edited'][0]:.0%}" if name in rates else "-" for name in _PER_CONCEPT)


def _size(count: float) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"
