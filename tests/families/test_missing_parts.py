"""Pipelines that diffusers loads without a part: what is missing is named before anything is drawn or written."""

from __future__ import annotations

import json

import pytest

import erase_plugins as ep
from erase_plugins.errors import RequestError, Unsupported
from erase_plugins.families import source
from erase_plugins.testing.models import fresh_pipeline
from erase_plugins.workflow.models import find_model, target_of


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    """It names a concept; whether it fits is asked after the model was looked at."""
    return ep.erase(
        fresh_pipeline("tiny_sd1"),
        "pizza",
        "uce",
        options={"vocabulary": 0},
        out=tmp_path_factory.mktemp("edit") / "artifact",
    )


def calls(pipe, method, artifact, out):
    return {
        "run": lambda: ep.erase(pipe, "pizza", method, out=out),
        "attack": lambda: ep.attack(pipe, artifact, "paraphrase", judge="pocket", out=out),
        "evaluate": lambda: ep.evaluate(pipe, artifact, "quick", judge="pocket", out=out),
    }


@pytest.mark.parametrize(
    ("name", "lost"),
    [
        ("tiny_sd1", ("text_encoder",)),
        ("tiny_sd1", ("tokenizer",)),
        ("tiny_sdxl", ("text_encoder",)),
        ("tiny_sdxl", ("text_encoder_2",)),
        ("tiny_sdxl", ("text_encoder", "text_encoder_2")),
        ("tiny_sd3", ("text_encoder_2",)),
        ("tiny_flux", ("text_encoder_2",)),
    ],
)
def test_what_prompts_are_read_with(artifact, tmp_path, name, lost):
    pipe = fresh_pipeline(name)
    for part in lost:
        setattr(pipe, part, None)
    told = f"^'pipeline' has no {' and no '.join(lost)} .None in its place.; load or save the pipeline with "
    method = "uce" if hasattr(pipe, "unet") else "esd"
    for what, call in calls(pipe, method, artifact, tmp_path / "out").items():
        with pytest.raises(Unsupported, match=told):
            call()
        assert not list(tmp_path.iterdir()), what


@pytest.mark.parametrize("lost", ["vae", "scheduler"])
def test_what_pictures_are_drawn_with(artifact, tmp_path, lost):
    """A closed form needs neither."""
    pipe = fresh_pipeline("tiny_sd1")
    setattr(pipe, lost, None)
    made = calls(pipe, "uce", artifact, tmp_path / "out")
    for what in ("attack", "evaluate"):
        with pytest.raises(Unsupported, match=rf"^'pipeline' has no {lost} \(None in its place\)"):
            made[what]()
        assert not list(tmp_path.iterdir()), what
    assert made["run"]().manifest.erased == ("pizza",)


def test_a_method_that_trains_needs_the_scheduler(tmp_path):
    pipe = fresh_pipeline("tiny_sd1")
    pipe.scheduler = None
    with pytest.raises(Unsupported, match="has no scheduler"):
        ep.erase(pipe, "pizza", "esd", options={"steps": 1}, out=tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_sd3_draws_without_t5_and_a_refiner_without_the_first_encoder():
    pipe = fresh_pipeline("tiny_sd3")
    pipe.text_encoder_3 = pipe.tokenizer_3 = None
    target_of(pipe).check_complete()
    refiner = fresh_pipeline("tiny_sdxl")
    refiner.text_encoder = refiner.tokenizer = None
    refiner.unet.register_to_config(cross_attention_dim=refiner.text_encoder_2.config.hidden_size)
    target_of(refiner).check_complete()


def test_a_part_that_a_model_of_the_hub_does_without_is_not_fetched(tmp_path, monkeypatch):
    """A refiner's index lists its first text encoder as [null, null]."""
    import huggingface_hub

    pipe = fresh_pipeline("tiny_sdxl")
    pipe.text_encoder = pipe.tokenizer = None
    pipe.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "model_index.json").read_text())["text_encoder"] == [None, None]
    asked = []

    def fetch(_model, name, revision=None):
        asked.append(name)
        if not (tmp_path / name).is_file():
            raise huggingface_hub.errors.EntryNotFoundError(name)
        return str(tmp_path / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    assert find_model("somebody/refiner").family.id == "sdxl"
    assert "text_encoder_2/config.json" in asked and "text_encoder/config.json" not in asked
    assert source.find_source("somebody/refiner").configs.keys() >= {"unet", "text_encoder_2"}


def test_a_name_that_is_no_model_is_answered_with_all_embedded_ones():
    with pytest.raises(RequestError, match="no model at 'nowhere'") as caught:
        source.find_source("nowhere")
    assert [name for name in source.EMBEDDED if f"'{name}'" not in str(caught.value)] == []
