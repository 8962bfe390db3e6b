"""One function in this process, in several, on a cluster: equal results, failures stay where they are."""

from __future__ import annotations

import pytest

from erase_plugins.comparison import executors
from erase_plugins.comparison.cells import read_result
from erase_plugins.comparison.run import grouped
from erase_plugins.errors import MissingExtra

from . import fakes


def outcome(cells, folder):
    return {cell.key: (read_result(folder / cell.key) or {}).get("status") for cell in cells}


def ran(cell, folder):
    place = folder / cell.key / "ran"
    return len(place.read_text()) if place.exists() else 0


def test_here_failures_do_not_stop_the_others(fake, cells, tmp_path):
    todo = cells("pizza", "nan", "bug", "dog")
    seen = []
    executors.run_here(grouped(todo), tmp_path, seen.append, fakes.prepare)
    assert seen == list(range(1, 9))
    assert [outcome(todo, tmp_path)[cell.key] for cell in todo] == ["ok"] * 2 + ["failed"] * 4 + ["ok"] * 2
    assert read_result(tmp_path / todo[2].key)["error"] == "loss became nan"
    assert read_result(tmp_path / todo[4].key)["error"] == "ZeroDivisionError: in a plugin"


def test_processes_give_what_one_gives_and_finished_cells_stay(fake, cells, tmp_path):
    todo = cells("pizza", "dog", "nan")
    executors.run_processes(grouped(todo), tmp_path, lambda done: None, fakes.prepare, jobs=2)
    assert [outcome(todo, tmp_path)[cell.key] for cell in todo] == ["ok"] * 4 + ["failed"] * 2
    executors.run_processes(grouped(todo[:4]), tmp_path, lambda done: None, fakes.prepare, jobs=2)
    assert [ran(cell, tmp_path) for cell in todo[:4]] == [1] * 4


def test_a_killed_process_costs_its_own_group(fake, cells, tmp_path):
    todo = cells("killer", "pizza")
    executors.run_processes(grouped(todo), tmp_path, lambda done: None, fakes.prepare, jobs=2)
    assert [outcome(todo, tmp_path)[cell.key] for cell in todo] == ["failed"] * 2 + ["ok"] * 2
    assert "died twice" in read_result(tmp_path / todo[0].key)["error"]
    assert ran(todo[0], tmp_path) == 2


def test_files_come_back_from_a_machine_that_cannot_see_the_folder(fake, cells, tmp_path):
    todo = cells("pizza")
    files = executors.work(todo, str(tmp_path / "elsewhere"), fakes.prepare)
    assert set(files) == {cell.key for cell in todo}
    executors.keep_files(files, tmp_path)
    assert set(outcome(todo, tmp_path).values()) == {"ok"}
    assert ran(todo[0], tmp_path) == 1


def test_without_ray_the_error_names_the_extra(cells, tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match=r"erase-plugins\[ray\]"):
        executors.run_ray(grouped(cells("pizza")), tmp_path, lambda done: None, address="local")


@pytest.mark.slow
def test_ray_gives_what_one_process_gives(fake, cells, tmp_path):
    pytest.importorskip("ray.exceptions", reason="ray is not installed")  # a folder named ray is no package
    todo = cells("pizza", "dog", "nan")
    executors.run_ray(grouped(todo), tmp_path, lambda done: None, fakes.prepare, address="local")
    assert [outcome(todo, tmp_path)[cell.key] for cell in todo] == ["ok"] * 4 + ["failed"] * 2
