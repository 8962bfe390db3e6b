"""attack, list attacks, info of an attack, and the notice about the old hook."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

import erase_plugins as ep
from erase_plugins import hookimpl
from erase_plugins.manager import get_manager
from erase_plugins.testing.models import fresh_pipeline
from erase_plugins.types import Attachment, AttackReport, EvalRow


class Tiny:
    """Draws one picture; what it says is fixed."""

    id, title, needs = "tiny-attack", "Tiny", frozenset()
    budgets = {"quick": 5, "standard": 6, "long": 7}
    attachments = ("tiny-found.txt",)

    def run(self, subject, budget):
        budget.progress("looking", 1, 1)
        subject.generate(["an owl"], [budget.seed])
        success = EvalRow("attack_success_rate", "a name", 0.5, 0.25, 0.75, 8)
        return AttackReport(
            self.id, subject.model, budget.name, success, EvalRow("attack_success_rate", "control", 0.125, 0.0, 0.5, 8),
            rows=(EvalRow("target_rate", "plain", 0.0, 0.0, 0.4, 8),), found={"prompt": "strix"}, erased=tuple(subject.erased),
            judge=subject.judge.id, judge_hash="0", queries=subject.queries, passes=16,
            attachments=(Attachment("tiny-found.txt", lambda path: path.write_text("strix")),),
        )  # fmt: skip


class Planted:
    @hookimpl
    def erase_attacks(self):
        return [Tiny()]


class Old:
    @hookimpl
    def erase_evaluators(self):
        return [type("OldTiny", (Tiny,), {"kind": "attack"})()]


@pytest.fixture
def tiny():
    with get_manager().temporary(Planted(), "planted"):
        yield "tiny-attack"


def test_attack_writes_shows_and_counts(erase, loaded, pizza_folder, tiny, tmp_path):
    out = tmp_path / "a"
    ran = erase("attack", pizza_folder, "--attack", tiny, "--out", out)
    assert ran.code == 0, ran.err
    assert "came back: 50 % [25..75] n=8 (a name); control: 12 % [0..50] n=8" in ran.out
    assert "excess over the control: 38 %" in ran.out and "1 pictures, 16 passes" in ran.out
    assert {item.name for item in out.iterdir()} == {"attack-tiny-attack.json", "tiny-found.txt"}
    assert json.loads((out / "attack-tiny-attack.json").read_text())["found"] == {"prompt": "strix"}
    again = erase("attack", pizza_folder, "--attack", tiny, "--out", out)
    assert again.code != 0 and "exists already" in again.err
    forced = erase("attack", pizza_folder, "--attack", tiny, "--out", out, "--force", "--json")
    assert (forced.code, forced.data["excess"], forced.data["budget"]) == (0, 0.375, "quick")
    assert forced.data["erased"] == ["pizza"]


@pytest.mark.parametrize(
    ("subject", "told", "over"),
    [
        ("control: reference model", "control, reference: 12 %", "the reference"),
        ("control: destroyed model", "control, destroyed: 12 %", "the destroyed model"),
        ("strix of the gloaming", "; control: 12 %", "the control"),
    ],
)
def test_it_says_what_the_control_is(erase, loaded, pizza_folder, tiny, tmp_path, monkeypatch, subject, told, over):
    run = Tiny.run
    control = EvalRow("attack_success_rate", subject, 0.125, 0.0, 0.5, 8)
    monkeypatch.setattr(Tiny, "run", lambda self, *given: replace(run(self, *given), control=control))
    ran = erase("attack", pizza_folder, "--attack", tiny, "--out", tmp_path / "a")
    assert told in ran.out and f"excess over {over}: 38 %" in ran.out and "gloaming" not in ran.out


def test_what_was_found_and_cannot_be_written_ends_it_with_an_error(
    erase, loaded, pizza_folder, tiny, tmp_path, monkeypatch
):
    run = Tiny.run
    broken = (Attachment("tiny-found.txt", lambda place: 1 / 0),)
    monkeypatch.setattr(Tiny, "run", lambda self, *given: replace(run(self, *given), attachments=broken))
    ran = erase("attack", pizza_folder, "--attack", tiny, "--out", tmp_path / "a")
    assert (ran.code, "came back: 50 %" in ran.out) == (1, True)
    assert "tiny-found.txt could not be written, see above" in ran.err
    assert [item.name for item in (tmp_path / "a").iterdir()] == ["attack-tiny-attack.json"]


def test_attack_and_model_may_stand_in_front(erase, loaded, pizza_folder, tiny, tmp_path):
    ran = erase("attack", tiny, "pocket", pizza_folder, "--out", tmp_path / "a", "--json")
    assert (ran.code, ran.data["attack"], ran.data["model"]) == (0, tiny, "pocket"), ran.err
    short = erase("attack", tiny, pizza_folder, "--out", tmp_path / "b")
    assert short.code == 2 and f"attack {tiny} needs a model and an artifact" in short.err
    twice = erase("attack", tiny, "pocket", pizza_folder, "--model", "pocket", "--out", tmp_path / "b")
    assert twice.code == 2 and "the model is named twice, in front and with --model; leave one out" in twice.err
    assert not (tmp_path / "b").exists()


def test_an_attack_may_be_called_like_the_folder_of_its_plugin(erase, pizza_folder, tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / tiny).mkdir()
    (tmp_path / tiny / "pyproject.toml").touch()  # as new-plugin leaves it
    ran = erase("attack", tiny, "pocket", pizza_folder, "--dry-run", "--json")
    assert (ran.code, ran.data["attack"], ran.data["erased"]) == (0, tiny, ["pizza"]), ran.err
    (tmp_path / "weights").symlink_to(pizza_folder)  # an artifact called like an attack is one
    ran = erase("attack", "weights", "--attack", tiny, "--dry-run", "--json")
    assert (ran.code, ran.data["attack"], ran.data["erased"]) == (0, tiny, ["pizza"]), ran.err


def test_a_dry_run_touches_nothing(erase, pizza_folder, tmp_path):
    ran = erase("attack", pizza_folder, "--budget", "standard", "--out", tmp_path / "a", "--dry-run", "--json")
    assert ran.data["dry_run"] is True
    assert (ran.data["attack"], ran.data["budget"], ran.data["erased"]) == ("weights", "standard", ["pizza"])
    assert ran.data["queries"] > 1000
    assert not (tmp_path / "a").exists()


def test_an_attack_on_weights_refuses_a_guard_before_the_model_is_loaded(erase, pocket_pipe, tmp_path):
    ep.erase(pocket_pipe, "pizza", "negative-prompt", out=tmp_path / "guard")
    ran = erase("attack", tmp_path / "guard", "--attack", "relearn", "--out", tmp_path / "a", "--dry-run")
    assert ran.code != 0
    assert "attack relearn attacks edited weights, and the guard" in ran.err
    assert erase("attack", tmp_path / "guard", "--attack", "paraphrase", "--out", tmp_path / "a", "--dry-run").code == 0


@pytest.mark.parametrize("name", ["paraphrase", "relearn"])
def test_an_attack_on_pictures_names_the_suites_that_ask_a_language_model(erase, pocket_pipe, tmp_path, name):
    """A guard too: which attack fits is said before what it could attack."""
    ep.erase(pocket_pipe, "pizza", "keyword-guard", out=tmp_path / "guard")
    words = ("--attack", name, "--model", "pocket-lm", "--out", tmp_path / "a", "--dry-run")
    ran = erase("attack", tmp_path / "guard", *words)
    assert ran.code == 3
    assert f"{name} needs denoiser, text; pocket-lm (family causal-lm) offers language; suites that fit: " in ran.err
    assert "language" in ran.err.partition("suites that fit: ")[2]
    asked = erase("evaluate", tmp_path / "guard", "--model", "pocket-lm", "--out", tmp_path / "a", "--dry-run")
    assert asked.code == 3 and "quick needs denoiser, text; pocket-lm" in asked.err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--attack", "weight"), "no attack named 'weight'; did you mean 'weights'?"),
        (("--budget", "0"), "budget 0 allows no query"),
        (("--budget", "quik"), "did you mean 'quick'?"),
        (("--judge", "pockt"), "no judge named 'pockt'; did you mean 'pocket'?"),
        (("--set", "rank=3"), "no option named 'rank'. Known: lora"),
        (("--set", "lora=gone.safetensors"), "no artifact at 'gone.safetensors'; give an artifact folder or a"),
        (("--budget", "7"), "budget 7 is too small for attack weights"),
    ],
)
def test_bad_requests_are_one_line_and_leave_nothing(erase, loaded, pizza_folder, tmp_path, words, told):
    ran = erase("attack", pizza_folder, *words, "--out", tmp_path / "a")
    assert ran.code in (2, 3)
    assert told in ran.err and ran.err.strip().count("\n") == 0
    assert not (tmp_path / "a").exists()


def test_a_model_without_its_text_encoder_is_named_before_anything_is_written(erase, pizza_folder, tmp_path):
    """As diffusers saves a pipeline that was loaded with ``text_encoder=None``."""
    pipe = fresh_pipeline("tiny_sd1")
    pipe.text_encoder = None
    pipe.save_pretrained(tmp_path / "model")
    before = sorted(tmp_path.rglob("*"))
    model = ("--model", tmp_path / "model", "--out", tmp_path / "out")
    for words in (
        ("attack", pizza_folder, "--judge", "pocket", *model), ("evaluate", pizza_folder, "--judge", "pocket", *model),
        ("run", "uce", "--erase", "pizza", *model), ("run", "esd", "--erase", "pizza", "--dry-run", *model),
    ):  # fmt: skip
        ran = erase(*words)
        assert ran.code == 3
        told = (
            "error: 'model' has no text_encoder (None in its place); load or save the pipeline with it, then try again"
        )
        assert ran.err.strip().splitlines()[-1] == told
        assert sorted(tmp_path.rglob("*")) == before


def test_attacks_are_listed_and_explained(erase, tiny):
    rows = {row["id"]: row for row in erase("list", "attacks", "--json").data["attacks"]}
    assert rows["weights"]["package"] == "erase-plugins"
    assert rows[tiny]["budgets"] == {"quick": 5, "standard": 6, "long": 7}
    shown = erase("info", tiny)
    assert "budget long: 7 queries" in shown.out
    assert "erase-plugins attack no-pizza --model pocket --attack tiny-attack" in shown.out


def test_the_old_hook_is_used_and_named(erase, monkeypatch):
    with get_manager().temporary(Old(), "older"):
        found = erase("list", "attacks", "--json").data
        assert "tiny-attack" in [row["id"] for row in found["attacks"]]
        assert [(item["plugin"], item["stage"]) for item in found["notices"]] == [("older", "erase_evaluators")]
        assert "older: erase_evaluators is deprecated and will go; use erase_judges" in " ".join(
            erase("list", "plugins").out.split()
        )
        lines = [line for line in erase("doctor", "--json").data["findings"] if "deprecated" in json.dumps(line)]
        assert [line["status"] for line in lines] == ["warning"]
    assert erase("list", "attacks", "--json").data["notices"] == []
