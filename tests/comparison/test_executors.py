"""One function in this process, in several, on a cluster: equal results, failures stay where they are."""

from __future__ import annotations

import os
import re
import sys
from multiprocessing import active_children
from types import SimpleNamespace

import pytest

from erase_plugins.comparison import executors
from erase_plugins.comparison.cells import read_result
from erase_plugins.comparison.run import grouped
from erase_plugins.errors import MissingExtra, RequestError

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


def test_an_interruption_ends_what_is_being_made_and_calls_nothing_failed(fake, cells, tmp_path):
    todo = cells("slow", "pizza")

    def interrupted(done):
        if any(ran(cell, tmp_path) for cell in todo[:2]):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        executors.run_processes(grouped(todo), tmp_path, interrupted, fakes.prepare, jobs=1)
    assert outcome(todo, tmp_path) == dict.fromkeys(outcome(todo, tmp_path))
    assert [ran(cell, tmp_path) for cell in todo] == [1, 0, 0, 0], "not started once more"
    assert active_children() == []


def test_what_was_finished_before_a_process_died_stays(fake, cells, tmp_path):
    todo = cells("halfway")
    executors.run_processes(grouped(todo), tmp_path, lambda done: None, fakes.prepare, jobs=1)
    assert [outcome(todo, tmp_path)[cell.key] for cell in todo] == ["ok", "failed"]
    assert [ran(cell, tmp_path) for cell in todo] == [1, 2]


def test_files_come_back_from_a_machine_that_cannot_see_the_folder(fake, cells, tmp_path):
    todo = cells("pizza")
    files = executors.work(todo, str(tmp_path / "elsewhere"), fakes.prepare)
    assert set(files) == {cell.key for cell in todo}
    executors.keep_files(files, tmp_path)
    assert set(outcome(todo, tmp_path).values()) == {"ok"}
    assert ran(todo[0], tmp_path) == 1


def test_without_ray_the_error_names_the_extra(cells, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match=r"erase-plugins\[ray\]"):
        executors.run_ray(grouped(cells("pizza")), tmp_path, lambda done: None, address="local")


@pytest.fixture(scope="module")
def ray(tmp_path_factory):
    """Ray, whose workers import what this process imports and leave nothing in the home folder."""
    if not os.environ.get("ERASE_REQUIRE_RAY"):
        pytest.importorskip("ray.exceptions", reason="ray is not installed")  # a folder named ray is no package
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        yield


@pytest.mark.slow
def test_ray_gives_what_one_process_gives(ray, fake, cells, tmp_path):
    todo, done = cells("pizza", "dog", "nan"), []
    executors.run_ray(grouped(todo), tmp_path / "ray", done.append, fakes.prepare, address="local")
    (tmp_path / "here").mkdir()
    executors.run_here(grouped(todo), tmp_path / "here", lambda done: None, fakes.prepare)
    assert [outcome(todo, tmp_path / "ray")[cell.key] for cell in todo] == ["ok"] * 4 + ["failed"] * 2
    assert done == [2, 4, 6]
    for cell in todo:
        there, here = ({file.relative_to(tmp_path / place / cell.key): file.read_bytes()
                        for file in (tmp_path / place / cell.key).rglob("*") if file.is_file()}
                       for place in ("ray", "here"))  # fmt: skip
        assert there == here, cell.key
        assert ran(cell, tmp_path / "ray") == 1


def unprepared() -> None:
    """Stands for a machine that lacks something."""
    raise ModuleNotFoundError("No module named 'colours'")


@pytest.mark.slow
def test_what_a_machine_of_the_cluster_lacks_is_told(ray, fake, cells, tmp_path):
    todo = cells("pizza")
    executors.run_ray(grouped(todo), tmp_path, lambda done: None, unprepared, address="local")
    for cell in todo:
        assert read_result(tmp_path / cell.key)["error"] == (
            "the cluster lost it: ModuleNotFoundError: No module named 'colours'"
        )


@pytest.mark.slow
def test_a_lost_worker_of_the_cluster_costs_what_it_had_not_finished(ray, fake, cells, tmp_path):
    """It is tried again as often as Ray is told to, twice; what the first attempt finished is neither lost nor done
    again, and what is told is the first line of Ray's own words."""
    todo, done = cells("halfway", "pizza"), []
    executors.run_ray(grouped(todo), tmp_path, done.append, fakes.prepare, address="local")
    assert [outcome(todo, tmp_path)[cell.key] for cell in todo] == ["ok", "failed", "ok", "ok"]
    assert [ran(cell, tmp_path) for cell in todo] == [1, 3, 1, 1]
    assert done == [2, 4]
    assert re.match("the cluster lost it: .*worker.*(died|crashed)", read_result(tmp_path / todo[1].key)["error"])


def test_an_address_at_which_no_cluster_answers(cells, tmp_path, monkeypatch):
    """Ray says so by one of two errors, depending on what stands in the address."""
    for error in (ConnectionError, ValueError):

        def refuse(*_given, _error=error, **_named):
            raise _error("nobody")

        monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(init=refuse))
        with pytest.raises(
            RequestError, match=r"no Ray cluster answers at 10\.0\.0\.1:6379; start one with .ray start"
        ):
            executors.run_ray(grouped(cells("pizza")), tmp_path, lambda done: None, address="10.0.0.1:6379")
