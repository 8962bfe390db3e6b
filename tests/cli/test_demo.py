"""demo: erases, measures, shows; a second run replaces its own folder and nobody else's."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from erase_plugins.workflow.artifacts import load_artifact


@pytest.fixture
def small(monkeypatch, loaded, tmp_path):
    from erase_plugins.cli import demo

    monkeypatch.setattr(demo, "COUNTS", {"target": 5, "neighbour": 1, "kept": 5})
    monkeypatch.setattr(demo, "OPTIONS", {"vocabulary": 300})
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


def test_a_second_demo_replaces_the_first(erase, small, monkeypatch):
    from erase_plugins.cli import demo

    def work(concept, seed, folder, name):
        (folder / name).mkdir()
        rows = [
            {"metric": f"{kind}_rate", "subject": subject, "value": 0.5, "n": 4}
            for kind in demo.COUNTS
            for subject in ("base", "edited")
        ]
        return {"rows": rows, "artifact": {"rank": 1, "bytes": 1200}, "patched": 14, "erase_seconds": 1.0}

    monkeypatch.setattr(demo, "_work", work)
    assert erase("demo").code == 0
    folder = small / "erase-plugins-demo"
    (folder / "notes.txt").write_text("mine")
    for more in ((), ("--force",)):
        assert "did not write (notes.txt)" in erase("demo", *more).err
    (folder / "notes.txt").unlink()
    ran = erase("demo", "--erase", "cat")
    assert ran.code == 0
    assert "pictures that show cat" in ran.out
    assert "50 %" in ran.out
    assert "1.2 kB" in ran.out
    commands = ran.out.split("next:")[1].strip().splitlines()
    assert [line.split()[1] for line in commands] == ["generate", "evaluate", "run"]
    assert "erase-plugins-demo/no-cat" in commands[0]
    assert sorted(item.name for item in folder.iterdir()) == [".erase-plugins", "no-cat"]


def test_demo_leaves_a_folder_of_the_user_alone(erase, small):
    mine = small / "erase-plugins-demo"
    mine.mkdir()
    (mine / "mine.txt").write_text("mine")
    ran = erase("demo")
    assert ran.code == 2
    assert "--force" in ran.err
    assert (mine / "mine.txt").read_text() == "mine"


def test_dry_run_writes_nothing(erase, small):
    assert erase("demo", "--dry-run", "--json").data["pictures"] == 22
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
