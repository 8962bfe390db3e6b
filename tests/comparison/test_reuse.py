"""Results of an earlier comparison stand for equal cells only."""

from __future__ import annotations

import json

import pytest

from erase_plugins.comparison import run
from erase_plugins.errors import RequestError

from . import fakes


def test_only_what_is_new_runs(fake, cells, tmp_path):
    run.compare(cells("pizza"), tmp_path / "a", prepare=fakes.prepare)
    earlier = tmp_path / "a" / "comparison.json"
    wanted = cells("pizza", "dog")
    found = run.compare(wanted, tmp_path / "b", prepare=fakes.prepare, reuse=earlier)
    assert found["todo"] == [cell.key for cell in wanted if cell.concept == "dog"]
    assert [bool(cell.get("reused")) for cell in found["cells"]] == [True, True, False, False]
    table = (tmp_path / "b" / "table.md").read_text()
    assert "2 of 4 cells are results of an earlier comparison" in table
    again = run.compare(wanted, tmp_path / "b", prepare=fakes.prepare)
    assert (again["todo"], again["kinds"]) == ([], found["kinds"])


def test_other_options_images_or_failures_are_run(fake, cells, tmp_path):
    todo = cells("pizza", "nan")
    run.compare(todo, tmp_path, prepare=fakes.prepare)
    path = tmp_path / "comparison.json"
    plans, _ = run.plan_cells(todo)
    assert set(run.reusable(todo, plans, path)) == {cell.key for cell in todo[:2]}
    stored = json.loads(path.read_text())
    stored["cells"][0]["options"] = {"aliases": "other", "gone": 1}
    stored["cells"][1]["options"] = {"gone": 1}
    path.write_text(json.dumps(stored))
    assert set(run.reusable(todo, plans, path)) == {todo[1].key}
    more = run.make_cells({"pizza": "object"}, [("uce", {}), ("rece", {})], images=8)
    assert run.reusable(more, run.plan_cells(more)[0], path) == {}
    assert run.reusable(todo, plans, None) == {}
    stored["cells"][1]["method"]["version"] = "0.0.1"
    path.write_text(json.dumps(stored))
    assert run.reusable(todo, plans, path) == {}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"cells": [{"status": "ok"}]}', '{"cells": 3}'])
def test_another_file_is_refused(text, cells, tmp_path):
    path = tmp_path / "comparison.json"
    path.write_text(text)
    with pytest.raises(RequestError, match="of an earlier comparison"):
        run.reusable(cells("pizza"), {}, path)
