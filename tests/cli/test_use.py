"""generate, evaluate, inspect, convert, apply on a real artifact."""

from __future__ import annotations

import json
import shlex
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from erase_plugins.artifacts.manifest import FILENAME
from erase_plugins.types import Certificate, Concept, DataRef, ForgetItem
from erase_plugins.workflow.artifacts import load_artifact


def test_generate_equals_the_python_function(erase, loaded, pizza_folder, pocket_pipe, tmp_path):
    from erase_plugins.api import generate
    from erase_plugins.evaluation.sheet import to_image

    words = ("generate", pizza_folder, "--prompt", "a pizza", "--seed", "3", "--steps", "4")
    ran = erase(*words, "--out", tmp_path / "a.png")
    assert ran.code == 0
    assert "patched 14 of 14 modules, strength 1" in ran.out
    wanted = to_image(generate(pocket_pipe, "a pizza", [pizza_folder], seeds=3, steps=4)[0])
    assert Image.open(tmp_path / "a.png").tobytes() == wanted.tobytes()


def test_generate_strength_zero_is_the_base(erase, loaded, pizza_folder, tmp_path):
    words = ("--prompt", "a pizza", "--steps", "4", "--json")
    first = erase("generate", pizza_folder, *words, "--strength", "0", "--out", tmp_path / "a.png")
    erase("generate", *words, "--out", tmp_path / "b.png")
    erase("generate", pizza_folder, *words, "--out", tmp_path / "c.png")
    assert first.data["applied"] == [{"artifact": "erase_pizza", "patched": 14}]
    pictures = {name: Image.open(tmp_path / f"{name}.png").tobytes() for name in "abc"}
    assert pictures["a"] == pictures["b"]
    assert pictures["a"] != pictures["c"]


def test_generate_refuses_what_exists_and_dry_run_writes_nothing(erase, loaded, tmp_path):
    place = tmp_path / "a.png"
    words = ("generate", "--prompt", "x", "--steps", "1", "--out", place)
    assert erase(*words, "--dry-run").code == 0
    assert not place.exists()
    place.write_bytes(b"mine")
    assert erase(*words).code == 2
    assert place.read_bytes() == b"mine"
    assert erase(*words, "--force").code == 2
    assert place.read_bytes() == b"mine"
    place.unlink()
    assert erase(*words).code == 0
    first = place.stat().st_mtime_ns
    assert erase(*words).code == 2
    assert erase(*words, "--force").code == 0
    assert place.stat().st_mtime_ns > first


def test_evaluate_writes_the_report_that_it_prints(erase, loaded, pizza_folder, tmp_path):
    few = ("--images", "1", "--out", tmp_path / "r")
    ran = erase("evaluate", pizza_folder, "--suite", "quick", *few, "--json")
    assert ran.code == 0
    written = json.loads((tmp_path / "r" / "report.json").read_text())
    assert ran.data["rows"] == written["rows"]
    assert {(row["metric"], row["subject"]) for row in written["rows"]} >= {
        ("target_rate", "base"),
        ("kept_rate", "edited"),
    }
    assert ran.data["quality"] in ("good", "fair", "poor")
    again = erase("evaluate", pizza_folder, *few)
    assert again.code == 2
    assert "--force" in again.err


def test_evaluate_dry_run(erase, pizza_folder, tmp_path, monkeypatch):
    def looked(*given, **more):
        pytest.fail("for this no weights are loaded, and diffusers, whose import takes seconds, is not asked")

    monkeypatch.setattr("erase_plugins.workflow.found.FoundModel.load", looked)
    monkeypatch.setattr("erase_plugins.families.skeleton._refs_cached", looked)
    ran = erase("evaluate", pizza_folder, "--out", tmp_path / "r", "--dry-run", "--json")
    assert ran.data["erased"] == ["pizza"]
    assert list(tmp_path.iterdir()) == []


def test_verdict_proposes_commands():
    from erase_plugins.cli.evaluate import verdict
    from erase_plugins.types import EvalReport, EvalRow

    def report(**edited: float) -> EvalReport:
        base = {"target_rate": 1.0, "synonym_rate": 1.0, "neighbour_rate": 1.0, "kept_rate": 1.0}
        after = {"target_rate": 0.0, "synonym_rate": 0.0, "neighbour_rate": 1.0, "kept_rate": 1.0} | edited
        rows = [EvalRow(name, "base", value, value, value, 8) for name, value in base.items()]
        rows += [EvalRow(name, "edited", value, value, value, 8) for name, value in after.items()]
        return EvalReport("quick", "pocket", tuple(rows), erased=("pizza",), judge="pocket")

    assert verdict(report(), [], "pocket") == ("good", [])
    few = report()
    rows = tuple(replace(row, high=0.75, n=4) if (row.metric, row.subject) == ("target_rate", "edited") else row
                 for row in few.rows)  # fmt: skip
    quality, advice = verdict(replace(few, rows=rows), [], "pocket")
    assert quality == "fair" and "4 pictures are too few" in advice[0] and "up to 75%" in advice[0]
    quality, advice = verdict(report(neighbour_rate=0.5), [], "pocket")
    assert quality == "poor"
    assert sum(line.startswith("erase-plugins run") for line in advice) == 2
    assert verdict(report(target_rate=0.3), [], "pocket")[0] == "fair"
    assert "aliases=true" in " ".join(verdict(report(synonym_rate=0.9), [], "pocket")[1])
    blind = report()
    none = tuple(replace(row, value=0.0) if row.metric == "target_rate" else row for row in blind.rows)
    told = verdict(replace(blind, rows=none), [], "pocket")
    assert told[0] == "not measured", "nothing was seen before, nothing after: that was called good"
    assert "the base model shows nothing of it either" in told[1][0]
    own = (EvalRow("moved", "at 0.5", 0.1, 0.1, 0.1, 1), EvalRow("moved", "at 1", 0.2, 0.2, 0.2, 1))
    assert verdict(EvalReport("curve", "pocket", own), [], "pocket") == ("not measured", []), "it was called fair"
    style = SimpleNamespace(manifest=SimpleNamespace(concepts=[Concept("pizza", "style")]))
    many = replace(report(synonym_rate=0.9), erased=("a", "b", "c", "d"))
    line = verdict(many, [style], "pocket")[1][-1]
    assert all(f"--erase {name} " in line for name in "abcd")  # a new artifact without one of them would bring it back
    assert "--kind style" in line


@pytest.mark.parametrize(
    ("strength", "said"),
    [("-1", "pushes towards"), ("0", "is the base: nothing"), ("3", "meant for: 0 to 1.2"), ("0.7", ""), ("1", "")],
)
def test_a_strength_that_does_not_erase_is_told(erase, pizza_folder, tmp_path, strength, said):
    words = ("--strength", strength, "--dry-run")
    for ran in (
        erase("generate", pizza_folder, "--prompt", "a pizza", "--out", tmp_path / "a.png", *words),
        erase("evaluate", pizza_folder, "--out", tmp_path / "r", *words),
        erase("apply", pizza_folder, "--model", "pocket", "--out", tmp_path / "m", *words),
    ):
        assert ran.code == 0
        assert said in ran.err if said else ran.err == ""


def test_only_a_report_about_what_an_artifact_erases_tells_its_quality():
    from erase_plugins.cli.evaluate import tells_quality
    from erase_plugins.types import EvalReport, EvalRow

    rows = (EvalRow("target_rate", "edited", 1.0, 0.5, 1.0, 8),)
    artifact = SimpleNamespace(manifest=SimpleNamespace(erased=("pizza", "owl")))
    assert tells_quality(EvalReport("quick", "pocket", rows, erased=("owl", "pizza")), artifact)
    assert not tells_quality(EvalReport("quick", "pocket", rows, erased=("dog",)), artifact)
    assert not tells_quality(EvalReport("quick", "pocket", (), erased=("owl", "pizza")), artifact)


def test_measured_quality_is_noted_in_the_manifest(pizza_folder, tmp_path):
    import shutil

    from erase_plugins.cli.evaluate import mark

    folder = shutil.copytree(pizza_folder, tmp_path / "copy")
    before = load_artifact(folder)
    mark(before, "poor")
    after = load_artifact(folder)
    assert after.manifest.quality == "poor"
    assert before.with_manifest(quality="poor").manifest == after.manifest
    mark(load_artifact(next(folder.glob("*kohya*"))), "good")
    assert load_artifact(folder).manifest.quality == "poor"


def test_what_was_measured_is_not_lost_where_the_artifact_cannot_be_written(
    pizza_folder, tmp_path, monkeypatch, capsys
):
    """On a read-only share the command ended in an error after the last picture; in the Hub's cache it broke a link."""
    import shutil

    from erase_plugins.artifacts.manifest import FILENAME
    from erase_plugins.cli.evaluate import mark

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    folder = shutil.copytree(pizza_folder, tmp_path / "shared")
    artifact = load_artifact(folder)
    with monkeypatch.context() as patch:
        patch.setattr("tempfile.mkstemp", refuse)
        mark(artifact, "good")
    told = "'shared' cannot be written (Permission denied); its manifest does not say: good"
    assert told in capsys.readouterr().err
    blob = tmp_path / "blob"
    (folder / FILENAME).rename(blob)
    (folder / FILENAME).symlink_to(blob)
    before = blob.read_bytes()
    mark(artifact, "good")
    assert (folder / FILENAME).is_symlink() and blob.read_bytes() == before


def test_inspect_folder_and_file(erase, pizza_folder):
    data = erase("inspect", pizza_folder, "--json").data
    assert (data["kind"], data["family"], data["erased"], data["statistics"]) == ("artifact", "sd1", ["pizza"], True)
    kohya = next(pizza_folder.glob("*kohya*"))
    data = erase("inspect", kohya, "--json").data
    assert (data["kind"], data["layout"], data["family"]) == ("ours", "kohya", "sd1")
    ran = erase("inspect", pizza_folder)
    assert "add, revoke and joint merge are possible" in ran.out


def test_inspect_says_whether_values_of_a_file_were_read(erase, tmp_path, monkeypatch):
    from erase_plugins.cli import inspect

    place = tmp_path / "a.safetensors"
    save_file({"lora_unet_x.lora_down.weight": torch.tensor([[1.0, 2.0]])}, place)
    assert "values: none is NaN or infinite" in erase("inspect", place).out
    save_file({"lora_unet_x.lora_down.weight": torch.tensor([[1.0, float("nan")]])}, place)
    broken = erase("inspect", place)
    assert broken.code == 2 and "a.safetensors: lora_unet_x.lora_down.weight holds NaN or infinity" in broken.err
    monkeypatch.setattr(inspect, "_SMALL", 8)
    assert "values: not read in so large a file; some may be NaN or infinite" in erase("inspect", place).out


@pytest.mark.parametrize("width", [60, 80, 120])
def test_inspect_reads_well_in_terminals(erase, pizza_folder, tmp_path, monkeypatch, width):
    """No line is wider, no word and no file's name is broken, and what no file has takes no room."""
    shutil.copytree(pizza_folder, tmp_path / "a")
    manifest = json.loads((tmp_path / "a" / FILENAME).read_text())
    manifest["notes"] = ["a note of many words, " * 12]
    (tmp_path / "a" / FILENAME).write_text(json.dumps(manifest))
    files = sorted((tmp_path / "a").glob("*.safetensors"))
    monkeypatch.setenv("COLUMNS", str(width))
    plain = erase("inspect", tmp_path / "a").out
    monkeypatch.setattr("erase_plugins.cli.console._terminal", lambda: width)
    alone, many = erase("inspect", tmp_path / "a").out, erase("inspect", tmp_path / "a", *files).out
    for text in (alone, many):
        lines = [line for line in text.splitlines() if not line.startswith("  again:")]
        assert max(map(len, lines)) <= width
        assert all(file.name in text for file in files)
    assert alone.split() == plain.split()
    assert any(len(line) > 200 for line in plain.splitlines()), "programs get lines as they are"
    assert not {"fits", "problem"} & set(many.replace(":", " ").split())
    assert "kB" in many


def test_inspect_shows_the_command_that_makes_it_again(erase, pizza_folder, tmp_path):
    again = erase("inspect", pizza_folder, "--json").data["again"]
    assert again.startswith("erase-plugins run uce --model pocket --erase pizza ")
    assert " --set vocabulary=200 " in again
    assert f"again: {again}" in erase("inspect", pizza_folder).out
    assert erase(*shlex.split(again)[1:], "--dry-run").code == 0
    load_artifact(pizza_folder).with_manifest(history=({"action": "add"},)).save(tmp_path / "grown", ("patch",))
    assert "again:" not in erase("inspect", tmp_path / "grown").out, "no single command made it"


def test_inspect_shows_a_certificate_and_the_data(erase, pizza_folder, tmp_path):
    proven = Certificate("noise", 1.5, 1e-6, "noise 1", "", True, (("rho", 0.5),), scope="the head")
    item = ForgetItem(kind="class", label=3)
    artifact = load_artifact(pizza_folder).with_manifest(
        certificate=proven, records=({"a": 1},), retain_data=(DataRef("kept", sha256="ab" * 32),), concepts=(item,)
    )
    artifact.save(tmp_path / "a", ("patch",))
    ran = erase("inspect", tmp_path / "a")
    assert "erased: 3" in ran.out
    assert "certificate: noise: rho 0.5, epsilon 1.5 at delta 1e-06 (accountant noise 1; the head)" in ran.out
    assert "records: 1" in ran.out
    assert "retained data: kept (abababababab)" in ran.out
    assert "erased: 3" in erase("inspect", tmp_path / "a" / "edit.safetensors").out
    assert "certificate" not in erase("inspect", pizza_folder).out


def test_inspect_does_not_count_files_that_a_pull_left_out(erase, pizza_folder, tmp_path):
    place = shutil.copytree(pizza_folder, tmp_path / "pulled")
    left = [item.name for item in place.glob("*kohya*")]
    for name in left:
        (place / name).unlink()
    ran = erase("inspect", place, "--json")
    names = {item["name"] for item in ran.data["manifest"]["files"]}
    assert ran.data["absent"] == left and len(left) == 1
    assert ran.data["bytes"] == sum((place / name).stat().st_size for name in names - set(left))
    assert f"{left[0]} (kohya, not here)" in erase("inspect", place).out


def test_inspect_many_goes_on_after_a_bad_one(erase, loaded, pizza_folder, tmp_path):
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(b"not a safetensors file")
    data = erase("inspect", bad, pizza_folder, "--base", "pocket", "--json").data
    assert [item["kind"] for item in data["items"]] == ["unreadable", "artifact"]
    assert data["items"][1]["fits"] == "yes"
    assert erase("inspect", bad).code == 2


def test_convert_keeps_the_effect(erase, loaded, pizza_folder, tmp_path):
    ran = erase("convert", pizza_folder, "--layout", "kohya", "--out", tmp_path / "a.safetensors", "--json")
    assert ran.code == 0, ran.err
    made = load_artifact(tmp_path / "a.safetensors").edit
    first = load_artifact(next(pizza_folder.glob("*kohya*"))).edit
    for (_, key, one), (_, other, two) in zip(made.items(), first.items(), strict=True):
        assert key == other
        assert (one.dense() - two.dense()).abs().max() < 1e-6
    assert erase("convert", pizza_folder, "--layout", "kohya", "--out", tmp_path / "a.safetensors").code == 2


def test_convert_calls_a_file_by_the_name_that_it_got(erase, loaded, pizza_folder, tmp_path):
    said = erase("convert", pizza_folder, "--layout", "kohya", "--out", tmp_path / "ohne müll.safetensors").out
    assert [line.split("  (")[0] for line in said.splitlines()[1:]] == ["  ohne müll.safetensors"]


def test_apply_writes_a_checkpoint_that_draws_the_same(erase, pizza_folder, tmp_path, pocket_pipe):
    import torch

    from erase_plugins.api import generate, load
    from erase_plugins.families.source import pocket_folder

    ran = erase("apply", pizza_folder, "--model", pocket_folder(), "--out", tmp_path / "fused", "--json")
    assert ran.code == 0, ran.err
    assert ran.data["modules"] == 14
    assert ran.data["files"] == ["unet/diffusion_pytorch_model.safetensors"]
    fused = generate(load(str(tmp_path / "fused")), "a pizza", steps=3)
    wanted = generate(pocket_pipe, "a pizza", [pizza_folder], steps=3)
    assert torch.allclose(fused, wanted, atol=2e-2)  # the fused weights are stored in fp16
    base = generate(pocket_pipe, "a pizza", steps=3)
    assert (fused - wanted).abs().mean() < 0.02 * (base - wanted).abs().mean()


@pytest.mark.parametrize("command", ["apply", "convert"])
def test_dry_runs_write_nothing(erase, pizza_folder, tmp_path, command):
    more = ("--model", "pocket") if command == "apply" else ("--layout", "kohya")
    assert erase(command, pizza_folder, *more, "--out", tmp_path / "x", "--dry-run").code == 0
    assert list(tmp_path.iterdir()) == []


def test_no_user_folder_reaches_a_manifest(tiny_sd1):
    from erase_plugins.workflow.models import target_of

    pipe = tiny_sd1()
    names = {
        "/home/me/models/dreamy.safetensors": "dreamy.safetensors", r"C:\Users\me\dreamy": "dreamy", "./my/model": "model",
        "org/name": "org/name", "pocket": "pocket",
    }  # fmt: skip
    assert {name: target_of(pipe, name).info.model for name in names} == names


def test_a_guard_with_a_key_draws_with_it(erase, loaded, tmp_path, monkeypatch):
    """A hit of ``action=empty`` is the picture of the empty prompt, bit by bit."""
    import erase_plugins.workflow.models as loading
    from erase_plugins.api import erase as run
    from erase_plugins.artifacts.marks import make_key

    make_key(tmp_path / "key")
    run(
        loaded,
        "pizza",
        "keyword-guard",
        out=tmp_path / "hidden",
        options={"key": str(tmp_path / "key"), "action": "empty"},
    )
    words = ("generate", tmp_path / "hidden", "--prompt", "a pizza", "--steps", 1, "--out", tmp_path / "after.png")
    refused = erase(*words)
    assert refused.code == 2 and "give the file with their key: --guard-key" in refused.err
    assert erase(*words, "--guard-key", tmp_path / "key").code == 0
    assert erase("generate", "--prompt", "", "--steps", 1, "--out", tmp_path / "empty.png").code == 0
    assert (tmp_path / "after.png").read_bytes() == (tmp_path / "empty.png").read_bytes()
    monkeypatch.setattr(loading, "load_pipeline", lambda *_, **__: loaded.pipe)
    words = ("card", tmp_path / "hidden", "--pairs", 1, "--out", tmp_path / "card.md", "--guard-key", tmp_path / "key")
    assert erase(*words, "--pair-prompt", "a pizza").code == 0
    before, after = (tmp_path / "images" / f"pair_1_{side}.png" for side in ("before", "after"))
    assert before.read_bytes() != after.read_bytes()
