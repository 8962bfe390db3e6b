"""One repository, stock peft and stock diffusers: both load it by its name alone, and from its folder."""

from __future__ import annotations

import json
import re

import pytest
import torch

import erase_plugins as ep
import hub_cards
from erase_plugins.testing.models import fresh_pipeline
from erase_plugins.workflow.models import target_of
from tests.hub.conftest import REPO
from tests.layouts.making import artifact_of, random_edit

TOLERANCE = 1e-4
#: model -> its denoiser, the groups of modules that are changed, and where the parts of the text encoders lie
MODELS = {
    "tiny_sd1": ("unet", ("cross_kv", "text"), ("text_encoder",)),
    "tiny_sdxl": ("unet", ("cross_kv", "text"), ("text_encoder", "text_encoder_2")),
    "tiny_sd3": ("transformer", ("attn", "text"), ("text_encoder", "text_encoder_2")),
    "tiny_flux": ("transformer", ("attn", "text"), ("text_encoder",)),
}


def drawn(pipe):
    """Latents of one prompt, always with the same noise."""
    made = pipe(
        "a pizza", num_inference_steps=2, guidance_scale=4.0, height=64, width=64, output_type="latent",
        generator=torch.Generator().manual_seed(3),
    )  # fmt: skip
    return made.images


@pytest.fixture(scope="module", params=list(MODELS))
def case(request, tmp_path_factory):
    """(name, artifact with the files that every artifact gets, what it draws when we apply it, what the base draws)."""
    pipe = fresh_pipeline(request.param)
    target = target_of(pipe, "base/model")
    edit = random_edit(target, MODELS[request.param][1])
    artifact = artifact_of(target, edit).save(tmp_path_factory.mktemp("peft") / "art", target=target)
    base = drawn(pipe)
    with ep.apply(pipe, artifact):
        ours = drawn(pipe)
    assert (ours - base).abs().max() > 1e-3
    return request.param, artifact, ours, base


@pytest.fixture
def online(hub, monkeypatch):
    """The test Hub; diffusers has read at import that the machine is offline."""
    import diffusers.loaders.lora_base as lora_base

    monkeypatch.setattr(lora_base, "HF_HUB_OFFLINE", False)
    return hub


def wrap(pipe, name, place):
    """What the page of the repository says: a line of peft for the denoiser and one for each text encoder."""
    from peft import PeftModel

    denoiser, _, others = MODELS[name]
    setattr(pipe, denoiser, PeftModel.from_pretrained(getattr(pipe, denoiser), place))
    for part in others:
        wrapped = PeftModel.from_pretrained(getattr(pipe, part), place, subfolder=f"peft_{part}")
        setattr(pipe, part, wrapped)


def test_both_load_the_repository_by_its_name(case, online):
    name, artifact, ours, base = case
    hub_cards.push(artifact, REPO, license="mit")
    pipe = fresh_pipeline(name)
    pipe.load_lora_weights(REPO)
    assert (drawn(pipe) - ours).abs().max() <= TOLERANCE
    pipe.unload_lora_weights()
    assert torch.equal(drawn(pipe), base)
    wrap(pipe, name, REPO)
    assert (drawn(pipe) - ours).abs().max() <= TOLERANCE


def test_both_load_the_folder(case):
    name, artifact, ours, _ = case
    pipe = fresh_pipeline(name)
    pipe.load_lora_weights(str(artifact.path))
    assert (drawn(pipe) - ours).abs().max() <= TOLERANCE
    pipe.unload_lora_weights()
    wrap(pipe, name, str(artifact.path))
    assert (drawn(pipe) - ours).abs().max() <= TOLERANCE


def test_what_the_page_says_about_peft_runs(case, hub):
    name, artifact, ours, _ = case
    hub_cards.push(artifact, REPO, license="mit")
    page = hub.files(REPO)["README.md"].decode()
    (lines,) = re.findall(r"\*\*peft\*\*[^`]*```python\n(.*?)\n```", page, re.DOTALL)
    assert lines.count("PeftModel.from_pretrained(") == 1 + len(MODELS[name][2])
    pipe = fresh_pipeline(name)
    exec(re.sub(r"^(from diffusers|pipe = ).*$", "", lines, flags=re.MULTILINE), {"pipe": pipe})
    assert (drawn(pipe) - ours).abs().max() <= TOLERANCE


def test_the_configuration_says_scale_one_and_names_every_module(case):
    _, artifact, _, _ = case
    config = json.loads((artifact.path / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"]) == ("LORA", config["lora_alpha"])
    denoiser = artifact.family.denoiser
    assert {f"{name}.weight" for name in config["target_modules"]} == set(artifact.edit.deltas[denoiser])
