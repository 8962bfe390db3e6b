"""``compare`` on the command line."""

from __future__ import annotations

import pytest

from tests.comparison import fakes


@pytest.fixture
def cheap(monkeypatch):
    """Cells that cost nothing."""
    from erase_plugins.cli import compare
    from erase_plugins.comparison import executors
    from erase_plugins.workflow import models as loading

    monkeypatch.setattr(executors, "run_cell", executors.run_cell)
    monkeypatch.setattr(loading, "load_pipeline", loading.load_pipeline)
    monkeypatch.setattr(compare, "quiet_libraries", fakes.prepare)


def test_table_files_and_json(erase, cheap, tmp_path):
    words = ("compare", "--methods", "uce,rece", "--erase", "pizza", "--erase", "nan", "--images", 4, "--out")
    dry = erase(*words, tmp_path / "a", "--dry-run", "--json")
    assert (dry.code, dry.data["cells"], len(dry.data["todo"])) == (0, 4, 4)
    assert not (tmp_path / "a").exists()
    shown = erase(*words, tmp_path / "a")
    assert shown.code == 0, shown.err
    assert "failed: uce, nan: loss became nan" in shown.err
    assert "0.0 %" in shown.out
    again = erase(*words, tmp_path / "a", "--json")
    assert len(again.data["todo"]) == 2
    assert again.data["kinds"]["object"]["rows"]["uce"]["concepts"] == 1
    assert (
        "erase-plugins compare --model pocket --methods uce,rece --erase pizza"
        in (tmp_path / "a" / "table.md").read_text()
    )


@pytest.mark.parametrize(("figure", "other"), [("sheet", "pareto.png"), ("pareto", "contact_sheet.png")])
def test_a_figure_that_cannot_be_made_costs_no_number_and_is_told(figure, other, erase, cheap, tmp_path, monkeypatch):
    from erase_plugins.comparison import run

    monkeypatch.setattr(run, figure, lambda *_: 1 / 0)
    words = ("compare", "--methods", "uce", "--erase", "pizza", "--images", 4, "--out", tmp_path)
    name = {"sheet": "contact_sheet.png", "pareto": "pareto.png"}[figure]
    ran = erase(*words)
    assert (ran.code, "0.0 %" in ran.out) == (1, True)
    assert f"{name} was not written: ZeroDivisionError" in ran.err and "pip install" not in ran.err
    assert f"{name} could not be written, see above; the numbers are in comparison.json" in ran.err
    assert (tmp_path / other).exists() and not (tmp_path / name).exists()
    assert name not in (tmp_path / "table.md").read_text() and other in (tmp_path / "table.md").read_text()
    assert list(erase(*words, "--json").data["unwritten"]) == [name]


def test_tables_of_benchmarks_from_finished_cells(erase, cheap, tmp_path):
    words = ("compare", "--methods", "uce", "--erase", "pizza", "--images", 4, "--out", tmp_path)
    assert erase(*words).code == 0
    shown = erase(*words, "--export", "hub", "--export", "unlearncanvas", "--json")
    assert (shown.code, shown.data["todo"], shown.data["files"]["hub_csv"]) == (0, [], "hub.csv")
    assert (tmp_path / "unlearncanvas.csv").read_text().startswith("method,kind,target_name,targets,UA,IRA,CRA,")
    assert erase(*words, "--export", "coco").code == 2


def test_wrong_requests(erase, cheap, tmp_path):
    assert erase("compare", "--out", tmp_path / "a").code == 2
    assert "did you mean 'uce'" in erase("compare", "--methods", "ucee", "--erase", "a", "--out", tmp_path / "a").err
    every = erase("compare", "--methods", "uce", "--erase", "nan", "--images", 4, "--out", tmp_path / "a")
    assert every.code == 1
    assert "every cell failed" in every.err
