"""Tables in the shape of UnlearnCanvas and HUB: every number calculated by hand from small tables of counts."""

from __future__ import annotations

import csv
import json
from statistics import harmonic_mean

import pytest

from erase_plugins.comparison import run
from erase_plugins.comparison.cells import Cell
from erase_plugins.comparison.exports import table
from erase_plugins.comparison.shapes import BASE, MEAN, SHAPES, harmonic
from erase_plugins.comparison.summary import summarise
from erase_plugins.errors import ArtifactError

from . import fakes


def cell(method, concept, kind="object", seconds=30.0, base=1.0, **seen):
    """A finished cell; ``seen`` is set -> (pictures in which it is seen, pictures)."""
    made = fakes.result(Cell(method, concept, kind=kind, images=4), seconds=seconds)
    made["rates"] = {
        f"{name}_rate": {"base": [base, 0.0, 1.0, count], "edited": [hits / count, 0.0, 1.0, count]}
        for name, (hits, count) in seen.items()
    } | {"kept_rate": {"base": [base, 0, 1, seen["kept"][1]],
                       "edited": [seen["kept"][0] / seen["kept"][1], 0, 1, seen["kept"][1]],
                       "destroyed": [0.0, 0.0, 0.75, 4]}}  # fmt: skip
    return made


def rows_of(name, cells):
    return {(row["method"], row["kind"], row["target_name"]): row for row in table(name, summarise(cells))["rows"]}


# 3 x 2 counts: two objects and one style, each with the three numbers of the benchmark
CELLS = [
    # UA 1 - 1/8; IRA (3 + 10) of (4 + 12); CRA 5 of 10
    cell("uce", "pizza", target=(1, 8), synonym=(2, 8), neighbour=(3, 4), kept=(10, 12), style=(5, 10)),
    # UA 1 - 4/8; IRA (4 + 12) of (4 + 12); CRA 10 of 10
    cell("uce", "dog", target=(4, 8), synonym=(4, 8), neighbour=(4, 4), kept=(12, 12), style=(10, 10), seconds=90.0),
    # UA 1; IRA (2 + 4) of (4 + 4): other styles, alone and beside objects; CRA: the objects, 9 of 12
    cell("uce", "noto", "style", target=(0, 8), neighbour=(2, 4), kept=(9, 12), style=(4, 4)),
]


def test_unlearncanvas_by_hand():
    found = rows_of("unlearncanvas", CELLS)
    pizza, noto = found["uce", "object", "pizza"], found["uce", "style", "noto"]
    assert [pizza[name] for name in ("UA", "IRA", "CRA", "mean")] == [87.5, 81.25, 50.0, 72.92]
    assert [noto[name] for name in ("UA", "IRA", "CRA", "mean")] == [100.0, 75.0, 75.0, 83.33]
    mean = found["uce", "object", MEAN]
    assert [mean[name] for name in ("targets", "UA", "IRA", "CRA", "mean")] == [2, 68.75, 90.62, 75.0, 78.12]
    assert found["uce", "style", MEAN]["UA"] == 100.0
    base = found[BASE, "object", "dog"]
    assert [base[name] for name in ("UA", "IRA", "CRA")] == [0.0, 100.0, 100.0]


def test_unlearncanvas_has_no_place_for_other_kinds_and_says_so():
    made = table("unlearncanvas", summarise([CELLS[0], cell("uce", "bob", "identity", target=(0, 4), kept=(4, 4))]))
    assert made["left_out"] == {"bob": "identity"}
    assert {row["target_name"] for row in made["rows"]} == {"pizza", MEAN}


def test_what_was_not_measured_stays_empty():
    found = rows_of("unlearncanvas", [cell("uce", "pizza", target=(0, 4), kept=(4, 4))])["uce", "object", "pizza"]
    assert (found["UA"], found["IRA"], found["CRA"], found["mean"]) == (100.0, 100.0, None, None)
    found = rows_of("hub", [cell("uce", "pizza", target=(0, 4), kept=(4, 4))])
    row = found["uce", "object", "pizza"]
    assert (row["synonyms"], row["pinpoint"], row["H_o"], row["FID"], row["attack"]) == (None,) * 5
    assert (row["H_c"], found["uce", "all", MEAN]["H_o"]) == (1.0, None)


def test_hub_by_hand():
    found = rows_of("hub", CELLS)
    pizza, mean = found["uce", "object", "pizza"], found["uce", "all", MEAN]
    assert [pizza[name] for name in ("target", "synonyms", "pinpoint", "kept", "style", "others", "minutes")] == [
        0.125, 0.25, 0.75, 0.8333, 0.5, 0.8125, 0.5
    ]  # fmt: skip
    assert pizza["H_c"] == round(harmonic_mean([7 / 8, 13 / 16]), 4)
    assert pizza["H_o"] == round(harmonic_mean([7 / 8, 3 / 4, 13 / 16]), 4)
    assert mean["targets"] == 3
    assert mean["target"] == round((1 / 8 + 4 / 8 + 0) / 3, 4)
    assert mean["minutes"] == round((0.5 + 1.5 + 0.5) / 3, 4)
    assert mean["others"] == round((13 / 16 + 1 + 11 / 16) / 3, 4)
    # Acc_e and Acc_p are means first; the score with synonyms is made per target, and a style has none
    assert mean["H_c"] == round(harmonic_mean([1 - (1 / 8 + 4 / 8) / 3, (13 / 16 + 1 + 11 / 16) / 3]), 4)
    assert mean["H_o"] == round((harmonic_mean([7 / 8, 3 / 4, 13 / 16]) + harmonic_mean([1 / 2, 1 / 2, 1])) / 2, 4)
    assert found[BASE, "object", "pizza"]["minutes"] is None
    assert found[BASE, "object", "pizza"]["H_c"] == 0.0


@pytest.mark.parametrize(("erased", "kept", "published"), [(0.0430, 0.8456, 0.8979), (0.0430, 0.8807, 0.9173)])
def test_harmonic_mean_gives_published_values(erased, kept, published):
    """100 celebrities: MACE, and ANT (arXiv 2504.12782)."""
    assert harmonic(1 - erased, kept) == pytest.approx(published, abs=5e-5)


def test_mean_of_targets_is_never_above_that_of_the_means():
    parts = [(0.9, 0.2), (0.3, 0.8), (0.0, 1.0)]
    each = sum(harmonic(*item) for item in parts) / 3
    assert each <= harmonic(sum(item[0] for item in parts) / 3, sum(item[1] for item in parts) / 3)
    assert harmonic(0.0, 1.0) == 0.0


def test_files_say_what_they_are(fake, cells, tmp_path):
    found = run.compare(cells("pizza"), tmp_path, prepare=fakes.prepare, exports=("unlearncanvas", "hub"))
    assert {found["files"][f"{name}_{end}"] for name in SHAPES for end in ("csv", "json")} == {
        "unlearncanvas.csv", "unlearncanvas.json", "hub.csv", "hub.json"
    }  # fmt: skip
    for name, shape in SHAPES.items():
        made = json.loads((tmp_path / f"{name}.json").read_text())
        with (tmp_path / f"{name}.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == len(made["rows"]) == 6  # base, uce, rece, each with its mean
        assert list(rows[0]) == list(made["columns"]) == list(shape.columns)
        assert all(row["protocol"].startswith("not comparable with the paper") for row in rows)
        assert all("judge fake" in row["protocol"] and row["pictures"] == "4" for row in rows)
        assert all(len(text) > 5 for text in made["columns"].values())
    again = run.compare(cells("pizza"), tmp_path, prepare=fakes.prepare, exports=("hub",))
    assert again["todo"] == []  # a table of finished cells costs nothing
    (tmp_path / "hub.csv").write_text("method,mine\n")
    with pytest.raises(ArtifactError, match=r"hub\.csv"):
        run.compare(cells("pizza"), tmp_path, prepare=fakes.prepare, exports=("hub",))


def test_nothing_is_exported_that_was_not_asked_for(fake, cells, tmp_path):
    run.compare(cells("pizza"), tmp_path, prepare=fakes.prepare)
    assert not list(tmp_path.glob("*.csv"))
