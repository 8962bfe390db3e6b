"""The command: plan, refusals, an interrupted and resumed run, JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from click.testing import CliRunner

from erase_plugins.errors import RequestError
from tools.pocket import art, train
from tools.pocket.recipe import STAGES, Recipe


def invoke(*arguments: object):
    return CliRunner().invoke(train.main, [str(argument) for argument in arguments])


@pytest.fixture
def small(monkeypatch, small_world, small_sprites, small_recipe):
    """The command on three shapes; ``Recipe(seed=...)`` gives the small recipe."""
    fields = asdict(small_recipe)

    def recipe(seed: int = 0) -> Recipe:
        return Recipe(**{**fields, "seed": seed})

    monkeypatch.setattr(train, "Recipe", recipe)
    monkeypatch.setattr(train, "pocket_world", lambda: small_world)
    monkeypatch.setattr(art, "load_sprites", lambda *_: small_sprites)
    monkeypatch.setattr(art, "fetch", lambda *_: Path("unused"))


def test_dry_run_lists_stages_and_writes_nothing(tmp_path):
    result = invoke("--dry-run", "--out", tmp_path / "new", "--json")
    assert result.exit_code == 0
    plan = json.loads(result.stdout)
    steps = {row["stage"]: row["steps"] for row in plan["stages"]}
    assert steps == {"vae": 2000, "decoder": 2500, "denoiser": 4460, "refine": 1780, "judge": 3000, "flow": 2400,
                     "measure": 0}  # fmt: skip
    pictures = {row["stage"]: row["pictures"] for row in plan["stages"]}
    assert pictures["vae"] == 32000
    assert pictures["denoiser"] + pictures["refine"] == 399360
    assert plan["seconds"] == sum(row["seconds"] for row in plan["stages"])
    assert not (tmp_path / "new").exists()


def test_dry_run_text_and_scale():
    result = invoke("--dry-run", "--steps-scale", 0.1, "--stage", "denoiser")
    lines = result.stdout.splitlines()
    assert [line.split()[:2] for line in lines[:2]] == [["denoiser", "446"], ["refine", "178"]]
    assert lines[-1].endswith("nothing was written")
    assert len(lines) == 3


@pytest.mark.parametrize("scale", [0, -1])
def test_scale_must_be_positive(scale):
    result = invoke("--dry-run", "--steps-scale", scale)
    assert result.exit_code == 2
    assert "steps scale must be positive" in result.stderr


def test_npm_missing_ends_with_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(art.shutil, "which", lambda _: None)
    monkeypatch.setattr(art, "default_folder", lambda: tmp_path / "cache")
    result = invoke("--out", tmp_path / "new")
    assert result.exit_code == 4
    assert result.stderr.count("\n") == 1
    assert "npm is not on the PATH" in result.stderr


def test_run_stops_resumes_and_reports(small, tmp_path, monkeypatch):
    out, stopped = tmp_path / "model", []
    real = train.StepBars.__call__

    def interrupt(self, stage: str, done: int, total: int, loss: float) -> None:
        real(self, stage, done, total, loss)
        if (stage, done) == ("denoiser", 3) and not stopped:
            stopped.append(stage)
            raise KeyboardInterrupt

    monkeypatch.setattr(train.StepBars, "__call__", interrupt)
    first = invoke("--out", out)
    assert first.exit_code == 130
    assert "stopped in stage 'denoiser'; the same command with --resume continues" in first.stderr
    blocked = invoke("--out", out)
    assert blocked.exit_code == 2
    assert "pass --resume to continue there or --force" in blocked.stderr
    other = invoke("--out", out, "--resume", "--seed", 5)
    assert other.exit_code == 2
    assert "seed (was 0, is 5)" in other.stderr
    second = invoke("--out", out, "--resume", "--json")
    assert second.exit_code == 0, second.stderr
    data = json.loads(second.stdout)
    assert tuple(data["stages"]) == STAGES
    assert data["stages"]["measure"]["drawn"]["style"]["n"] == 3
    assert (out / "model" / "model_index.json").is_file()
    assert "denoiser" in second.stderr  # the bars
    alone = invoke("--out", out, "--stage", "measure", "--json")
    assert json.loads(alone.stdout)["stages"]["measure"]["drawn"] == data["stages"]["measure"]["drawn"]


def test_resume_needs_a_started_training(tmp_path):
    with pytest.raises(RequestError, match="no started training to resume"):
        train.prepare(tmp_path, Recipe(), resume=True, force=False)


def test_force_deletes_trainings_only(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(RequestError, match="not a training folder and is not deleted"):
        train.prepare(tmp_path, Recipe(), resume=False, force=True)
    assert (tmp_path / "thesis.txt").is_file()
    (tmp_path / ".training").mkdir()
    (tmp_path / ".training" / "recipe.json").write_text("{}")
    with pytest.raises(RequestError, match=r"holds thesis\.txt, which no training wrote"):
        train.prepare(tmp_path, Recipe(), resume=False, force=True)
    assert (tmp_path / "thesis.txt").is_file()
    (tmp_path / "thesis.txt").unlink()
    train.prepare(tmp_path, Recipe(), resume=False, force=True)
    assert not tmp_path.exists()


def test_recipe_checks_itself():
    with pytest.raises(RequestError, match="scale"):
        Recipe(scale=(0.9, 0.8))
    with pytest.raises(RequestError, match="not divisible"):
        Recipe(size=60)
    assert Recipe().scaled(0.5).steps()["vae"] == 1000
    assert Recipe().scaled(1e-9).steps()["judge"] == 1
