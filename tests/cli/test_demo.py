"""demo: erases, measures, shows; a second run replaces its own folder and nobody else's."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from erase_plugins.artifacts.artifact import load_artifact


@pytest.fixture
def small(monkeypatch, loaded, tmp_path):
    from erase_plugins.cli import demo

    monkeypatch.setattr(demo, "COUNTS", {"target": 6, "neighbour": 4, "kept": 6})
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_demo_shows_the_concept_gone_and_the_rest_intact(erase, small):
    ran = erase("demo", "--json")
    data = ran.data
    rates = {(row["metric"], row["subject"]): row["value"] for row in data["rows"]}
    assert rates[("target_rate", "base")] >= 0.8
    assert rates[("target_rate", "edited")] <= 0.2
    assert rates[("kept_rate", "edited")] >= rates[("kept_rate", "base")] - 0.2
    folder = small / "erase-plugins-demo"
    assert load_artifact(folder / "no-pizza").manifest.erased == ("pizza",)
    assert data["artifact"]["bytes"] > 0
    assert data["patched"] == 14
    assert Image.open(folder / "contact_sheet.png").width > 500
    report = json.loads((folder / "report.json").read_text())
    assert {(row["metric"], row["subject"]): row["value"] for row in report["rows"]} == rates
    assert len(data["next"]) == 3

    (folder / "left.txt").write_text("from the first run")
    again = erase("demo", "--erase", "cat")
    assert again.code == 0
    assert "before" in again.out
    assert again.out.count("erase-plugins ") >= 3
    assert sorted(item.name for item in folder.iterdir()) == [
        ".erase-plugins-demo", "contact_sheet.png", "no-cat", "report.json",
    ]  # fmt: skip


def test_demo_leaves_a_folder_of_the_user_alone(erase, small):
    mine = small / "erase-plugins-demo"
    mine.mkdir()
    (mine / "mine.txt").write_text("mine")
    ran = erase("demo")
    assert ran.code == 2
    assert "--force" in ran.err
    assert (mine / "mine.txt").read_text() == "mine"


def test_dry_run_writes_nothing(erase, small):
    assert erase("demo", "--dry-run", "--json").data["pictures"] == 32
    assert list(small.iterdir()) == []


def test_failure_leaves_nothing_behind(erase, small, monkeypatch):
    from erase_plugins.cli import demo
    from erase_plugins.errors import NotFiniteError

    def fail(*_):
        raise NotFiniteError("loss became nan")

    monkeypatch.setattr(demo, "_work", fail)
    ran = erase("demo")
    assert (ran.code, "loss became nan" in ran.err) == (1, True)
    assert list(small.iterdir()) == []
