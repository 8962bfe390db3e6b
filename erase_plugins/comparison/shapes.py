"""The tables of two benchmarks, UnlearnCanvas and HUB: their columns, and how rates of a comparison become them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

BASE, MEAN = "base model", "(mean)"
#: value and pictures of a metric
Rate = tuple[float, int]
Rates = Mapping[str, Rate]
Row = dict[str, Any]


@dataclass(frozen=True)
class Shape:
    """A benchmark's table.

    Attributes:
        columns: name -> definition, in order; what a paper has and nobody measured here stays empty.
        protocol: what the benchmark does and a comparison does not.
        digits: behind the point.
        row: columns of one target from its kind and rates; None where the table has no place for the kind.
        mean: columns of the mean row from those of the targets.
        by_kind: whether every kind has a mean row of its own.
    """

    columns: Mapping[str, str]
    protocol: str
    digits: int
    row: Callable[[str, Rates], Row | None]
    mean: Callable[[Sequence[Row]], Row]
    by_kind: bool


def harmonic(*values: float) -> float:
    """Harmonic mean of shares; 0 where one is 0."""
    return len(values) / sum(1 / value for value in values) if all(value > 0 for value in values) else 0.0


def pooled(rates: Rates, *metrics: str) -> float | None:
    """Share over the pictures of several metrics; None where there are none."""
    found = [rates[name] for name in metrics if name in rates]
    count = sum(number for _, number in found)
    return sum(value * number for value, number in found) / count if count else None


def average(rows: Sequence[Row], column: str) -> float | None:
    """Mean of a column over the rows that have it."""
    found = [row[column] for row in rows if row.get(column) is not None]
    return sum(found) / len(found) if found else None


# ---- UnlearnCanvas (arXiv 2402.11846) --------------------------------------------------------------------------------

#: kind of the target -> metrics of the other targets of its domain, and of the labels of the other domain
_DOMAINS = {
    "object": (("neighbour_rate", "kept_rate"), ("style_rate",)),
    "style": (("neighbour_rate", "style_rate"), ("kept_rate",)),
}


def _canvas_row(kind: str, rates: Rates) -> Row | None:
    if kind not in _DOMAINS:
        return None
    same, other = _DOMAINS[kind]
    gone, inside, across = pooled(rates, "target_rate"), pooled(rates, *same), pooled(rates, *other)
    row = {
        "UA": None if gone is None else 100 * (1 - gone),
        "IRA": None if inside is None else 100 * inside,
        "CRA": None if across is None else 100 * across,
    }
    return row | {"mean": average([{"x": value} for value in row.values()], "x") if None not in row.values() else None}


def _canvas_mean(rows: Sequence[Row]) -> Row:
    return {name: average(rows, name) for name in ("UA", "IRA", "CRA", "mean")}


# ---- HUB (arXiv 2410.05664) ------------------------------------------------------------------------------------------

_SETS = {
    "target": "target_rate", "synonyms": "synonym_rate", "pinpoint": "neighbour_rate", "kept": "kept_rate",
    "style": "style_rate",
}  # fmt: skip


def _hub_row(_: str, rates: Rates) -> Row:
    row: Row = {column: pooled(rates, metric) for column, metric in _SETS.items()}
    row["others"] = pooled(rates, "neighbour_rate", "kept_rate")
    return row | _combined(row)


def _combined(row: Row) -> Row:
    gone, reworded, others = row["target"], row["synonyms"], row["others"]
    known = None not in (gone, others)
    return {
        "H_c": harmonic(1 - gone, others) if known else None,
        "H_o": harmonic(1 - gone, 1 - reworded, others) if known and reworded is not None else None,
    }


def _hub_mean(rows: Sequence[Row]) -> Row:
    row = {name: average(rows, name) for name in (*_SETS, "others", "minutes")}
    return row | {"H_c": _combined(row)["H_c"], "H_o": average(rows, "H_o")}


# ---- tables ----------------------------------------------------------------------------------------------------------

_FIRST = {
    "method": f"the compared method; '{BASE}' is the model as it was",
    "kind": "of the target",
    "target_name": f"what was erased; '{MEAN}' is the mean over targets, each counted once",
    "targets": "how many targets the row is made of",
}
_LAST = {
    "pictures": "per target and prompt set",
    "protocol": "what has to be said beside every number of this row",
}
SHAPES: Mapping[str, Shape] = {
    "unlearncanvas": Shape(
        {
            **_FIRST,
            "UA": "unlearning accuracy in %: pictures of prompts that name the target in which the judge does not "
                  "see it",
            "IRA": "in-domain retain accuracy in %: other targets of the same domain (object or style) that are seen. "
                   "Object: pictures of neighbours and of other kept objects together; style: pictures of other "
                   "styles, alone and beside kept objects",
            "CRA": "cross-domain retain accuracy in %: labels of the other domain that are seen. Object: the styles "
                   "named beside other objects; style: the objects that were asked for",
            "mean": "of UA, IRA and CRA",
            **_LAST,
        },
        "not comparable with the paper: it takes a Stable Diffusion 1.5 tuned on its 60 styles and 20 objects, its "
        "two ViT-L/16 classifiers and 5 seeds for each of 51 x 20 prompts, and all of these decide the numbers",
        2, _canvas_row, _canvas_mean, True,
    ),
    "hub": Shape(
        {
            **_FIRST,
            "target": "share of pictures of prompts that name the target in which the judge sees it (down)",
            "synonyms": "the same for prompts with another word for it (down); not a column of the paper, which asks "
                        "in other languages",
            "pinpoint": "share of neighbours that are seen: concepts of the same group (up)",
            "kept": "share of other concepts that are seen (up); not a column of the paper",
            "style": "share of styles named beside concepts that stay which are seen (up); not a column of the paper",
            "others": "pinpoint and kept over all their pictures: Acc_p and Acc_L of the next two",
            "H_c": "harmonic mean of 1 - target and others; of a mean row, that of its two means",
            "H_o": "harmonic mean of 1 - target, 1 - synonyms and others; of a mean row, the mean over targets",
            "FID": "empty: not measured by a comparison",
            "ImageReward": "empty: not measured by a comparison",
            "multilingual": "empty: not measured by a comparison",
            "attack": "empty: not measured by a comparison; 'erase-plugins attack' does",
            "minutes": "of erasing one target, on the machine of the comparison (down)",
            **_LAST,
        },
        "not comparable with the paper: it takes 10,000 prompts per target, 100 nearest nouns in CLIP for pinpoint "
        "and a vision-language model as judge, and all of these decide the numbers",
        4, _hub_row, _hub_mean, False,
    ),
}  # fmt: skip
