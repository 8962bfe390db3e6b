"""A closed form leaves the denoiser in its files; the edit is the same, and real sizes fit into 12 GB."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import erase_plugins
from erase_plugins.testing.models import shared_pipeline
from erase_plugins.testing.observe import predictions
from erase_plugins.workflow.models import find_model


@pytest.fixture(scope="module", params=["tiny_sd3", "tiny_flux"])
def stored(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / request.param
    shared_pipeline(request.param).save_pretrained(folder)
    return request.param, folder


def test_the_edit_is_the_same_and_the_denoiser_lies_in_its_file(stored, tmp_path):
    name, folder = stored
    light = erase_plugins.erase(str(folder), "pizza", "uce", to="a house", out=tmp_path / "light")
    whole = erase_plugins.erase(shared_pipeline(name), "pizza", "uce", to="a house")
    ((_, _, one),), ((_, _, other),) = list(light.edit.items()), list(whole.edit.items())
    torch.testing.assert_close(one.B @ one.A, other.B @ other.A, rtol=1e-4, atol=1e-5)
    pipe = shared_pipeline(name)
    before = predictions(pipe)
    with erase_plugins.apply(pipe, tmp_path / "light") as handle:  # the base is recognised
        assert handle.patched == 2
        assert not torch.equal(predictions(pipe), before)
    assert torch.equal(predictions(pipe), before)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="tells of memory as Linux does")
def test_a_mapped_denoiser_takes_no_memory_of_its_own(stored):
    target = find_model(str(stored[1])).load(light=True)
    assert all(in_file(item) for item in target.pipe.transformer.parameters())


def test_prompts_are_encoded_where_the_text_encoders_are(stored, monkeypatch):
    """On an accelerator they would be given tokens of the processor, where the denoiser stays."""
    target = find_model(str(stored[1])).load(light=True)
    rows, pooled = target.family.encode_texts(target.pipe, ["pizza"], 8, target.device)
    asked = []

    def encode_texts(_family, _pipe, _prompts, _length, device):
        asked.append(device)
        return rows.to(device), pooled.to(device)

    monkeypatch.setattr(type(target.family), "encode_texts", encode_texts)
    for name in target.family.encoders:
        if (part := getattr(target.pipe, name, None)) is not None:
            part.to("meta")
    assert target._encoded(["pizza"], 8)[0].device.type == "meta"
    assert {device.type for device in asked} == {"meta"}
    assert target.network("denoiser").device.type == "cpu"


def in_file(tensor):
    """Whether the numbers of a tensor are pages of a file."""
    place = tensor.data_ptr()
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, stop = (int(end, 16) for end in line.split()[0].split("-"))
        if start <= place < stop:
            return line.endswith(".safetensors")
    return False


def test_a_denoiser_without_its_weights_is_refused(stored, tmp_path):
    from safetensors.torch import load_file, save_file

    from erase_plugins.errors import Unsupported
    from erase_plugins.families.mapped import mapped

    file = stored[1] / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    del tensors["context_embedder.weight"]
    save_file(tensors, tmp_path / file.name)
    config = json.loads((stored[1] / "transformer" / "config.json").read_text())
    with pytest.raises(Unsupported, match=r"lack context_embedder\.weight"):
        mapped(tmp_path, config)


def test_a_denoiser_stored_in_half_precision_is_read_though_it_could_not_run(tmp_path):
    """Stable Diffusion 3 is published in float16, in which it overflows when it runs."""
    import copy

    from diffusers import StableDiffusion3Pipeline

    parts = shared_pipeline("tiny_sd3").components
    halved = {**parts, "transformer": copy.deepcopy(parts["transformer"]).half()}
    StableDiffusion3Pipeline(**halved).save_pretrained(tmp_path / "model")
    made = erase_plugins.erase(str(tmp_path / "model"), "pizza", "uce", to="a house", out=tmp_path / "edit")
    pipe = erase_plugins.load(str(tmp_path / "model"))
    before = predictions(pipe)
    with erase_plugins.apply(pipe, tmp_path / "edit") as handle:
        assert handle.patched == 2
        assert not torch.equal(predictions(pipe), before)
    assert torch.equal(predictions(pipe), before)
    assert torch.isfinite(next(item for _, _, item in made.edit.items()).B).all()
