"""The suite on the embedded model with tiny encoders: its rows, its marks, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean

import pytest

import erase_plugins as ep
from erase_plugins import extras
from erase_plugins.errors import MissingExtra, RequestError
from erase_plugins.evaluation.context import run_in_context
from erase_plugins.evaluation.standard.suite import OTHER, StandardSuite, chosen_metrics
from erase_plugins.types import EvalReport
from erase_plugins.workflow.measure import open_subject

pytest.importorskip("torchmetrics")

NEVER_SAW_IT = Path(__file__).parents[2] / "pocket" / "reference"
SMALL = {"images": 4, "steps": 4}


@pytest.fixture(scope="module")
def artifact(pocket_target):
    return ep.erase(pocket_target, "pizza")


@pytest.fixture
def settings(clip_folder, networks):
    return {"clip": str(clip_folder), "lpips": "squeeze", "features": "clip"}


def measured(pipe, artifact, settings, **changes):
    suite = StandardSuite()
    subject = open_subject(pipe, [artifact], suite, **{**SMALL, **changes})
    return run_in_context(suite, subject, settings), subject


def test_rows_are_what_the_pictures_give(pocket_pipe, artifact, settings):
    from erase_plugins.evaluation.standard.distances import cmmd, fid
    from erase_plugins.evaluation.standard.encoders import Clip, Lpips

    report, subject = measured(pocket_pipe, artifact, settings)
    clip, lpips, drawn = Clip(settings["clip"], "cpu"), Lpips("squeeze", "cpu"), subject.drawn
    for name in ("target", "kept"):
        base, edited, other = (drawn[part][name] for part in ("base", "edited", OTHER))
        texts = report.details["prompts"][name]
        assert report.row(f"clip_score_{name}", "base").value == pytest.approx(
            fmean(clip.scores(base, texts)), abs=1e-5
        )
        assert report.row(f"clip_score_{name}", "edited").value == pytest.approx(
            fmean(clip.scores(edited, texts)), abs=1e-5
        )
        assert report.row(f"lpips_{name}", "edited").value == pytest.approx(
            fmean(lpips.distances(base, edited)), abs=1e-5
        )
        assert report.row(f"lpips_{name}", OTHER).value == pytest.approx(fmean(lpips.distances(base, other)), abs=1e-5)
    base, edited, other = (clip.features(drawn[part]["kept"]) for part in ("base", "edited", OTHER))
    assert report.row("fid_kept", "edited").value == pytest.approx(fid(base, edited), abs=1e-5)
    assert report.row("fid_kept", OTHER).value == pytest.approx(fid(base, other), abs=1e-5)
    assert report.row("cmmd_kept", "edited").value == pytest.approx(cmmd(base, edited), abs=1e-5)
    assert {row.metric for row in report.rows} == {
        "clip_score_target", "clip_score_kept", "lpips_target", "lpips_kept", "fid_kept", "kid_kept", "cmmd_kept"
    }  # fmt: skip
    assert report.row("lpips_target", "edited").value > report.row("lpips_kept", "edited").value > 0


def test_every_row_says_that_it_is_not_comparable_and_of_how_many_pictures(pocket_pipe, artifact, settings, tmp_path):
    report = ep.evaluate(pocket_pipe, artifact, StandardSuite.id, settings=settings, out=tmp_path, **SMALL)
    stored = json.loads((tmp_path / "report.json").read_text())
    assert [row["note"] for row in stored["rows"]] == ["not comparable with papers: 4 pictures"] * len(report.rows)
    assert {row.n for row in report.rows} == {4}
    assert EvalReport.from_dict(stored).rows == report.rows
    assert "fid of 4 pictures with 8 features is far too large" in " ".join(report.warnings)
    assert report.details["encoders"]["clip"] == "tiny-clip"


def test_an_edit_that_does_nothing_changes_nothing(pocket_pipe, artifact, settings):
    report, _ = measured(pocket_pipe, artifact, settings, strength=0.0)
    for name in ("target", "kept"):
        assert report.row(f"lpips_{name}", "edited").value == 0.0
        assert report.row(f"lpips_{name}", OTHER).value > 0.0
        scores = [report.row(f"clip_score_{name}", subject).value for subject in ("base", "edited")]
        assert scores[0] == scores[1]
    assert abs(report.row("fid_kept", "edited").value) < 1e-3
    assert report.row("cmmd_kept", "edited").value == pytest.approx(0.0, abs=1e-6)


def test_a_reference_is_measured_beside_base_and_edited(pocket_pipe, artifact, settings):
    from erase_plugins.evaluation.standard.distances import cmmd
    from erase_plugins.evaluation.standard.encoders import Clip

    report, subject = measured(pocket_pipe, artifact, {**settings, "reference": str(NEVER_SAW_IT)})
    alone, _ = measured(pocket_pipe, artifact, settings)
    mine = [row for row in report.rows if row.subject != "reference"]
    assert [row.to_dict() for row in mine] == [row.to_dict() for row in alone.rows]
    assert {row.metric for row in report.rows if row.subject == "reference"} == {row.metric for row in alone.rows}
    assert report.row("lpips_kept", "reference").value > 0
    clip, drawn = Clip(settings["clip"], "cpu"), subject.drawn
    base, never = (clip.features(drawn[name]["kept"]) for name in ("base", "reference"))
    assert report.row("cmmd_kept", "reference").value == pytest.approx(cmmd(base, never), abs=1e-5)
    texts = report.details["prompts"]["target"]
    scores = clip.scores(drawn["reference"]["target"], texts)
    assert report.row("clip_score_target", "reference").value == pytest.approx(fmean(scores), abs=1e-5)


def test_only_what_was_chosen_is_opened_and_drawn(pocket_pipe, artifact, clip_folder, offline):
    report, subject = measured(pocket_pipe, artifact, {"metrics": "clip", "clip": str(clip_folder)})
    assert {row.metric for row in report.rows} == {"clip_score_target", "clip_score_kept"}
    assert subject.queries == 2 * 2 * SMALL["images"]


def test_what_it_refuses_it_refuses_before_anything_is_drawn(pocket_pipe, artifact, clip_folder, offline):
    with pytest.raises(RequestError, match="choose among clip, lpips, fid, kid, cmmd"):
        measured(pocket_pipe, artifact, {"metrics": "clip,is"})
    with pytest.raises(RequestError, match="two pictures"):
        measured(pocket_pipe, artifact, {"metrics": "clip", "clip": str(clip_folder)}, images=1)
    suite = StandardSuite()
    subject = open_subject(pocket_pipe, [artifact], suite, **SMALL)
    with pytest.raises(RequestError, match="LPIPS"):
        run_in_context(suite, subject, {"metrics": "lpips"})
    with pytest.raises(RequestError, match="nowhere"):
        run_in_context(
            suite, subject, {"metrics": "clip", "clip": str(clip_folder), "reference": str(clip_folder / "nowhere")}
        )
    assert subject.queries == 0
    assert chosen_metrics(" kid, clip,") == ("clip", "kid")


def test_a_missing_package_is_told_with_the_command(pocket_pipe, artifact, monkeypatch):
    there = extras.installed
    monkeypatch.setattr(extras, "installed", lambda name: None if name == "torchmetrics" else there(name))
    monkeypatch.setattr(extras, "extras", lambda: {"metrics": ("torchmetrics",)})
    with pytest.raises(MissingExtra, match=r"suite standard-metrics .*pip install 'erase-plugins\[metrics\]'"):
        ep.evaluate(pocket_pipe, artifact, StandardSuite.id, **SMALL)
