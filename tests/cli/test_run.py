"""run: detection first, plan, checks, artifact, next commands."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from erase_plugins.workflow.artifacts import load_artifact

ROOT = Path(__file__).parents[2]
FAST = ("--set", "vocabulary=200", "--no-check")


def test_dry_run_prints_family_and_plan_and_touches_nothing(erase, tmp_path, monkeypatch):
    import erase_plugins.api as api

    def loaded(*_, **__):
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(api, "as_target", loaded)
    ran = erase("run", "uce", "--erase", "pizza", "--keep", "cat", "--out", tmp_path / "a", "--dry-run")
    assert ran.code == 0
    assert ran.out.splitlines()[0] == "model pocket: family sd1 (Stable Diffusion 1.x / 2.x)"
    assert "14 modules of unet" in ran.out
    assert "nothing was loaded or written" in ran.out
    assert list(tmp_path.iterdir()) == []


def test_dry_run_says_what_is_in_the_way_as_the_run_does(erase, tmp_path):
    words = ("run", "uce", "--erase", "pizza", "--out", tmp_path / "a", "--dry-run", "--json")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "mine.txt").write_text("hers")
    said = [erase(*words, *more).data["warnings"] for more in ((), ("--force",))]
    assert all("mine.txt" in warnings[0] and "choose another --out" in warnings[0] for warnings in said)
    assert "files up to" in erase(*words[:-1]).out


def test_costs_that_a_method_does_not_know_are_not_said_to_be_unknown(capsys):
    from erase_plugins.cli.run import _say_plan
    from erase_plugins.types import EditPlan, EraseRequest, ForgetItem

    request = EraseRequest("pocket", (ForgetItem("pizza"),), "mine")
    _say_plan(EditPlan(request=request, options={}, modules=("unet.a",), steps=1), None)
    _say_plan(EditPlan(request=request, options={}, modules=("unet.a",), steps=1, seconds=2.0), None)
    out = capsys.readouterr().out
    assert "the method does not estimate what it takes\n" in out and "\n  about 2.0 s\n" in out
    assert "unknown" not in out


def test_dry_run_json_holds_the_plan(erase, tmp_path):
    ran = erase("run", "uce", "--erase", "pizza", "--erase", "cat", "--set", "lam=0.25", "--seed", "7",
                "--out", tmp_path / "a", "--dry-run", "--json")  # fmt: skip
    plan = ran.data["plan"]
    assert ran.data["family"] == "sd1"
    assert plan["schema"] == 1
    assert [item["text"] for item in plan["request"]["forget"]] == ["pizza", "cat"]
    assert plan["request"]["seed"] == 7
    assert plan["options"]["lam"] == 0.25
    assert len(plan["modules"]) == 14
    assert ran.err == ""


def test_wrong_family_names_the_detected_one(erase, tmp_path):
    ran = erase("run", "uce", "--family", "sdxl", "--erase", "pizza", "--out", tmp_path / "a", "--dry-run")
    assert ran.code == 2
    assert "detected: sd1" in ran.err


@pytest.mark.parametrize(
    ("setting", "text"),
    [("lamm=1", "did you mean 'lam'?"), ("lam=-1", "below its minimum"), ("tokens=lst", "did you mean 'last'?"),
     ("vocabulary=many", "is not of type int")],
)  # fmt: skip
def test_bad_options_are_refused_before_loading(erase, tmp_path, setting, text):
    ran = erase("run", "uce", "--erase", "pizza", "--set", setting, "--out", tmp_path / "a")
    assert ran.code == 2
    assert text in ran.err
    assert list(tmp_path.iterdir()) == []


def test_run_writes_a_verified_artifact_and_says_what_comes_next(erase, loaded, tmp_path):
    ran = erase("run", "uce", "--erase", "pizza", "--out", tmp_path / "no pizza", *FAST)
    assert ran.code == 0
    artifact = load_artifact(tmp_path / "no pizza")
    assert artifact.manifest.erased == ("pizza",)
    assert f"patched 14 of 14 modules, rank {artifact.manifest.rank}" in ran.out
    assert "erase-plugins evaluate" in ran.out
    assert "'" in ran.out.split("next:")[1]  # the folder with a blank is quoted
    assert [item.name for item in tmp_path.iterdir()] == ["no pizza"]


def test_run_json_and_layouts(erase, loaded, tmp_path):
    ran = erase("run", "uce", "--erase", "pizza", "--layout", "patch", "--layout", "kohya", "--out", tmp_path / "a",
                *FAST, "--json")  # fmt: skip
    data = ran.data
    assert data["patched"] == data["artifact"]["modules"] == 14
    assert [item["layout"] for item in data["artifact"]["files"]] == ["patch", "kohya"]
    assert data["artifact"]["bytes"] == sum(item.stat().st_size for item in (tmp_path / "a").glob("*.safetensors"))
    assert len(data["next"]) == 3


def test_existing_folder_needs_force(erase, loaded, tmp_path):
    place = tmp_path / "a"
    place.mkdir()
    ran = erase("run", "uce", "--erase", "pizza", "--out", place, *FAST)
    assert ran.code == 2
    assert "pass --force" in ran.err
    assert erase("run", "uce", "--erase", "pizza", "--out", place, *FAST, "--force").code == 0
    (place / "mine.txt").write_text("mine")
    for more in ((), ("--force",)):
        ran = erase("run", "uce", "--erase", "pizza", "--out", place, *FAST, *more)
        assert ran.code == 2
        assert "did not write (mine.txt)" in ran.err
    assert (place / "mine.txt").read_text() == "mine"


def test_concepts_from_a_file(erase, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("pizza\n\n# a comment\ncat\n", encoding="utf-8")
    ran = erase("run", "uce", "--erase-file", names, "--out", tmp_path / "a", "--dry-run", "--json")
    assert [item["text"] for item in ran.data["plan"]["request"]["forget"]] == ["pizza", "cat"]


def test_nothing_to_erase_writes_nothing_unless_meant(erase, loaded, tmp_path, monkeypatch):
    """A base that draws something else for the name: simulated by a judge that never sees it."""
    from erase_plugins.cli import reaction

    monkeypatch.setattr(reaction, "_seen", lambda target, judge, names, each, request: [
        (name, ["cat"] * (each // 2) + ["dog"] * (each - each // 2)) for name in names
    ])  # fmt: skip
    words = ("run", "uce", "--erase", "pizza", "--set", "vocabulary=200", "--out", tmp_path / "a")
    ran = erase(*words)
    assert ran.code == 3
    assert "does not react to 'pizza': concept score 0 % against 0 % for a random name" in ran.err
    assert "error: nothing to erase" in ran.err and "pass --no-check if you mean it" in ran.err
    assert list(tmp_path.iterdir()) == []
    assert erase(*words, "--json").data["error"]["exit_code"] == 3
    assert erase(*words, "--force").code == 3, "to replace a folder is another wish"
    assert erase(*words, "--no-check").code == 0
    assert load_artifact(tmp_path / "a").manifest.erased == ("pizza",)


UNKNOWN = {
    "nonsense": (("--erase", "zxqv blorf"), "'zxqv blorf' is nothing that pocket was trained to draw"),
    "style": (("--erase", "Van Gogh", "--kind", "style"), "'Van Gogh' is nothing that pocket was trained to draw"),
    "one of two": (("--erase", "pizza", "--erase", "zxqv blorf"), "'zxqv blorf' is nothing that pocket was trained"),
    "object": (("--erase", "Van Gogh"), "'Van Gogh' is nothing that pocket was trained to draw"),
}


@pytest.mark.parametrize(("words", "told"), UNKNOWN.values(), ids=UNKNOWN)
def test_an_unknown_concept_is_refused_with_the_way_out(erase, loaded, tmp_path, words, told):
    ran = erase("run", "uce", *words, "--out", tmp_path / "a")
    assert ran.code == 3
    assert told in ran.err
    assert ran.err.strip().splitlines()[-1].endswith("name another concept, or pass --no-check if you mean it")
    assert list(tmp_path.iterdir()) == []


def test_a_concept_that_would_be_cut_is_refused_also_without_check(erase, loaded, tmp_path):
    ran = erase("run", "uce", "--erase", "pizza with cheese " * 140, "--out", tmp_path / "a", "--no-check")
    assert ran.code == 2
    assert "the text encoder of pocket reads 30: the end would be cut without a trace" in ran.err
    assert len(ran.err.strip().splitlines()[-1]) < 400
    assert list(tmp_path.iterdir()) == []


def test_who_means_it_gets_a_warning_that_stays(erase, loaded, tmp_path):
    ran = erase("run", "uce", "--erase", "zxqv blorf", "--out", tmp_path / "a", *FAST)
    assert ran.code == 0, ran.err
    (warning,) = (text for text in load_artifact(tmp_path / "a").manifest.warnings if "trained to draw" in text)
    assert warning in f"{ran.out}{ran.err}"


def test_the_base_reacts_to_a_concept_that_it_draws(pocket_target):
    from erase_plugins.api import build_request
    from erase_plugins.cli.reaction import base_reaction

    found = base_reaction(pocket_target, build_request("pocket", "uce", ["pizza"]))
    assert found.scores["pizza"] >= 0.75
    assert not found.nothing
    assert list(found.lines()) == []


def test_cancelled_run_leaves_no_artifact_and_says_resume(erase, loaded, tmp_path, monkeypatch):
    set_event = threading.Event()
    set_event.set()
    monkeypatch.setattr(threading, "Event", lambda: set_event)
    ran = erase("run", "uce", "--erase", "pizza", "--out", tmp_path / "a", *FAST)
    assert ran.code == 130
    assert "run the same command with --resume" in ran.err
    assert not (tmp_path / "a").exists()


def test_the_second_writer_is_told_before_the_model_is_loaded(erase, tmp_path, monkeypatch):
    import erase_plugins.cli.command as command

    place = tmp_path / "a"
    code = f"""
import sys
from pathlib import Path
from erase_plugins.artifacts.locks import claim
with claim(Path({str(place)!r})):
    print("holds", flush=True)
    sys.stdin.readline()
"""
    monkeypatch.setattr(command, "load_target", lambda *_, **__: pytest.fail("loaded"))
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as first:
        assert first.stdout.readline().strip() == "holds"
        for words in (("run", "uce"), ("run", "uce", "--force"), ("run", "uce", "--resume")):
            ran = erase(*words, "--erase", "pizza", "--out", place, *FAST)
            assert ran.code == 2
            assert "'a' is being written by another run" in ran.err
        first.communicate("\n")
    assert not list(tmp_path.iterdir())


def test_what_a_killed_run_left_is_gone_on_with_and_cleared(erase, loaded, tmp_path):
    """A stale lock, half a folder and the checkpoint of a run that was killed."""
    (tmp_path / ".a.lock").write_text("")
    (tmp_path / ".a.abcd1234.tmp").mkdir()
    (tmp_path / ".a.abcd1234.tmp" / "edit.safetensors").write_bytes(b"half")
    (tmp_path / ".a.work").mkdir()
    (tmp_path / ".a.work" / "checkpoint.safetensors").write_bytes(b"old")
    (tmp_path / ".ab.abcd1234.tmp").mkdir()
    assert erase("run", "uce", "--erase", "pizza", "--out", tmp_path / "a", *FAST, "--resume").code == 0
    assert sorted(item.name for item in tmp_path.iterdir()) == [".ab.abcd1234.tmp", "a"]


def test_resume_with_other_options_is_refused_by_name(erase, loaded, tmp_path, monkeypatch):
    """The interrupted run is a real one: its work folder stays as it was."""
    from erase_plugins.errors import RunCancelled
    from erase_plugins.methods.esd import ESD

    def interrupted(self, plan, target, ctx):
        ctx.checkpoint(1, {}, {}, "key")
        raise RunCancelled("cancelled")

    words = ("run", "esd", "--erase", "pizza", "--out", tmp_path / "a", "--no-check")
    with monkeypatch.context() as patch:
        patch.setattr(ESD, "run", interrupted)
        assert erase(*words, "--set", "iterations=4").code == 130
    before = sorted(item.name for item in (tmp_path / ".a.work").iterdir())
    ran = erase(*words, "--set", "iterations=5", "--resume")
    assert ran.code == 2
    assert "iterations 4 then, 5 now" in ran.err
    assert "leave --resume out" in ran.err
    assert sorted(item.name for item in (tmp_path / ".a.work").iterdir()) == before
    assert not (tmp_path / "a").exists()


def test_resume_without_an_interrupted_run_says_so(erase, loaded, tmp_path):
    ran = erase("run", "uce", "--erase", "pizza", "--out", tmp_path / "a", "--resume", *FAST)
    assert ran.code == 0
    assert "no interrupted run is here; starting anew" in ran.err
