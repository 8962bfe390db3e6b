"""Which cells, what is written, and going on after an interruption."""

from __future__ import annotations

import json

import pytest

from erase_plugins.comparison import run
from erase_plugins.comparison.cells import read_result, write_result
from erase_plugins.errors import RequestError, UnknownName
from erase_plugins.manager import get_manager

from . import fakes


def test_methods_are_named_with_options():
    assert run.parse_methods(["uce,rece", "uce:aliases=true:lam=0.5"]) == [
        ("uce", {}), ("rece", {}), ("uce", {"aliases": "true", "lam": "0.5"})
    ]  # fmt: skip
    names = [name for name, _ in run.parse_methods(["uce", "all"])]
    assert sorted(names) == sorted(entry.item.id for entry in get_manager().methods() if entry.item.produces)
    with pytest.raises(UnknownName):
        run.parse_methods(["ucee"])
    with pytest.raises(RequestError, match="not key=value"):
        run.parse_methods(["uce:aliases"])
    with pytest.raises(RequestError, match="no method"):
        run.parse_methods([])


def test_a_kept_concept_is_not_kept_from_itself():
    cells = run.make_cells({"pizza": "object", "noto": "style"}, [("uce", {})], keep=("pizza", "dog"))
    assert [(cell.concept, cell.kind, cell.keep) for cell in cells] == [
        ("pizza", "object", ("dog",)), ("noto", "style", ("pizza", "dog"))
    ]  # fmt: skip


def test_comparison_writes_everything_and_repeats_only_failures(fake, cells, tmp_path):
    todo = cells("pizza", "nan")
    first = run.compare(todo, tmp_path, prepare=fakes.prepare, command="erase-plugins compare")
    assert set(first["files"].values()) == {"table.md", "comparison.json", "contact_sheet.png", "pareto.png"}
    assert all((tmp_path / name).stat().st_size > 0 for name in first["files"].values())
    table = (tmp_path / "table.md").read_text()
    assert "](pareto.png)" in table and "](contact_sheet.png)" in table
    assert (len(first["todo"]), len(first["failed"])) == (4, 2)
    again = run.compare(todo, tmp_path, prepare=fakes.prepare, command="erase-plugins compare")
    assert again["todo"] == [cell.key for cell in todo[2:]]
    assert json.loads((tmp_path / "comparison.json").read_text())["kinds"] == again["kinds"]
    sizes = [len((tmp_path / "cells" / cell.key / "ran").read_text()) for cell in todo]
    assert sizes == [1, 1, 2, 2]


def test_a_plan_that_is_refused_skips_its_cell(fake, tmp_path):
    cells = run.make_cells({"pizza": "object"}, [("uce", {}), ("uce", {"lam": "nonsense"})], images=4)
    found = run.compare(cells, tmp_path, prepare=fakes.prepare)
    assert list(found["skipped"]) == ["uce:lam=nonsense, pizza"]
    assert found["kinds"]["object"]["rows"]["uce"]["concepts"] == 1
    assert read_result(tmp_path / "cells" / cells[1].key)["status"] == "skipped"


def test_cells_of_another_judge_in_the_folder_are_refused(fake, cells, tmp_path):
    todo = cells("pizza")
    run.compare(todo, tmp_path, prepare=fakes.prepare)
    place = tmp_path / "cells" / todo[0].key
    stored = read_result(place)
    write_result(place, {**stored, "measured_by": {**stored["measured_by"], "judge_hash": "other"}})
    with pytest.raises(RequestError, match="differ in judge_hash"):
        run.compare(todo, tmp_path, prepare=fakes.prepare)
