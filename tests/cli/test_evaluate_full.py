"""evaluate --suite full: real suites on the embedded models, with a judge, without one, and with nothing to look for."""

from __future__ import annotations

import json

import pytest

import erase_plugins as ep
from erase_plugins import hookimpl
from erase_plugins.errors import RequestError, Unsupported
from erase_plugins.evaluation.full_suite import FullSuite
from erase_plugins.manager import get_manager
from erase_plugins.types import EvalReport, EvalRow


class Own:
    """Measures the number of pictures and asks nobody."""

    id, title, needs, packages, needs_judge = "own", "Own", frozenset(), frozenset(), False

    def run(self, subject, ctx):
        return EvalReport(self.id, subject.model, (EvalRow("target_rate", "edited", 1.0, 1.0, 1.0, subject.images),))


class Planted:
    @hookimpl
    def erase_suites(self):
        return [Own()]


@pytest.fixture(autouse=True)
def planted():
    with get_manager().temporary(Planted(), "planted"):
        yield


def test_one_folder_with_all_of_it(erase, loaded, pizza_folder, tmp_path):
    words = ("evaluate", pizza_folder, "--suite", "full", "--images", "1", "--out", tmp_path / "r")
    ran = erase(*words, "--set", "suites=quick,own,classifier", "--json")
    assert ran.code == 0, ran.err
    assert ran.data["rows"] == json.loads((tmp_path / "r" / "report.json").read_text())["rows"]
    rows = {(row["metric"], row["subject"]): row for row in ran.data["rows"]}
    assert ("target_rate", "base") in rows and rows["own/target_rate", "edited"]["value"] == 1.0
    assert ran.data["details"]["not_run"] == {"classifier": "it needs classifier, which pocket does not offer"}
    assert ran.data["quality"] in ("good", "fair", "poor") and ran.data["judge"] == "pocket"
    assert {item.name for item in (tmp_path / "r").iterdir()} == {
        "report.json", "full.md", "contact_sheet.png", "chart.png", "quick-report.json", "own-report.json",
    }  # fmt: skip


def test_wrong_ids_are_one_line_and_leave_nothing(erase, loaded, pizza_folder, tmp_path):
    words = ("evaluate", pizza_folder, "--suite", "full", "--out", tmp_path / "r", "--set")
    for setting, told in (("suites=quik", "did you mean 'quick'"), ("suites=full", "leave it out of suites")):
        ran = erase(*words, setting)
        assert ran.code in (2, 3) and told in ran.err and "Traceback" not in ran.err
        assert not (tmp_path / "r" / "report.json").exists()


def test_models_that_no_judge_knows(tiny_sd1):
    report = ep.evaluate(tiny_sd1(), [], "full", erased=["pizza"], steps=1, images=3, settings={"suites": "own,quick"})
    assert report.row("target_rate", "edited").n == 3 and report.judge == ""
    assert "no registered judge knows" in report.details["not_run"]["quick"]
    nothing = ep.evaluate(tiny_sd1(), [], "full", settings={"suites": "own,quick"})
    assert nothing.details["not_run"]["quick"].startswith("nothing to look for")
    with pytest.raises(Unsupported, match="looks at image"):
        ep.evaluate("pocket-classifier", [], "full", erased=["tractor"], judge="pocket")
    with pytest.raises(RequestError, match="nothing to look for"):
        ep.evaluate(tiny_sd1(), [], "quick")


def test_a_classifier_has_suites_of_its_own(tmp_path):
    report = ep.evaluate("pocket-classifier", [], "full", erased=["tractor"], out=tmp_path / "r")
    assert report.details["metrics"]["classifier"][:2] == ["target_rate", "kept_rate"]
    assert report.row("own/target_rate", "edited").value == 1.0
    assert list(report.details["not_run"]) == ["attacks"]  # asks a judge
    assert (tmp_path / "r" / "chart.png").is_file() and (tmp_path / "r" / "classifier-report.json").is_file()


def test_it_is_listed_and_explained(erase):
    assert "full" in {row["id"] for row in erase("list", "suites", "--json").data["suites"]}
    shown = erase("info", "full").out
    assert FullSuite.title in shown and all(name in shown for name in ("budget", "reference", "suites"))
