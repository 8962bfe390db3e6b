"""A LoRA repository that is not ours: pulled, inspected and evaluated by the same commands."""

from __future__ import annotations

import json

import pytest
from huggingface_hub import CommitOperationAdd, HfApi

from erase_plugins import erase as run_method
from erase_plugins.evaluation import run as measuring
from erase_plugins.evaluation.draw import draw
from tests.cli.conftest import erase  # noqa: F401

REPO = "tester/some-lora"


@pytest.fixture
def published(hub, tmp_path):
    """A repository with one LoRA file in which nothing says where it came from."""
    from safetensors.torch import load_file, save_file

    from erase_plugins.workflow.models import as_target

    made = run_method("pocket", "pizza", "uce", options={"vocabulary": "100"})
    made = made.save(tmp_path / "made", ("diffusers",), target=as_target("pocket"))
    bare = tmp_path / "bare.safetensors"
    save_file(load_file(made.path / "pytorch_lora_weights.safetensors"), bare)
    HfApi().create_repo(REPO)
    HfApi().create_commit(REPO, [CommitOperationAdd("pizza_off.safetensors", bare)], commit_message="x")
    return made


@pytest.mark.slow
def test_pulled_inspected_and_evaluated(hub, published, erase, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(measuring, "draw", lambda *given, **named: draw(*given, **{**named, "steps": 4}))
    ran = erase("pull", REPO, "--into", tmp_path / "fetched", "--json")
    assert ran.code == 0, ran.err
    assert ran.data["fetched"] == ["pizza_off.safetensors"]
    ran = erase("inspect", tmp_path / "fetched" / "pizza_off.safetensors", "--json")
    assert ran.code == 0, ran.err
    assert "erased" not in ran.data or ran.data["erased"] == []
    words = ("evaluate", f"hub:{REPO}", "--model", "pocket", "--images", "4", "--out", tmp_path / "report")
    asked = erase(*words)
    assert asked.code != 0
    assert "--erased" in asked.err, asked.err
    ran = erase(*words, "--erased", "pizza", "--json")
    assert ran.code == 0, ran.err
    rows = json.loads((tmp_path / "report" / "report.json").read_text())["rows"]
    rates = {row["subject"]: row["value"] for row in rows if row["metric"] == "target_rate"}
    assert rates["base"] >= 0.75
    assert rates["edited"] <= 0.25
