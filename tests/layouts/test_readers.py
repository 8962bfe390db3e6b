"""Stock loaders really run on the written files; latents must equal ours."""

from __future__ import annotations

import pytest
import torch

import erase_plugins as ep
from erase_plugins.families.diffusers_target import DiffusersTarget
from tests.layouts.making import artifact_of, count_patched, latents, random_edit

TOLERANCE = 1e-4
GROUPS = {
    "everything": ("denoiser", "text"),
    "cross attention": ("cross_kv",),
    "text q, k, v only": ("text_attn",),
    "text mlp only": ("text_mlp",),
}


@pytest.fixture(scope="module", params=["pocket", "sd1", "sd2", "sdxl"])
def pipe(request):
    from erase_plugins.testing.tiny import tiny_sd1, tiny_sdxl

    if request.param == "pocket":
        return ep.load("pocket")
    made = {"sd1": tiny_sd1, "sd2": lambda: tiny_sd1(prediction="v_prediction", linear=True), "sdxl": tiny_sdxl}
    return made[request.param]()


@pytest.fixture(scope="module")
def base(pipe):
    return latents(pipe)


def written(pipe, groups, folder, layouts=("patch", "diffusers", "kohya"), drop=""):
    target = DiffusersTarget(pipe, "model")
    edit = random_edit(target, groups)
    if drop:
        deltas = {c: {k: d for k, d in group.items() if drop not in k} for c, group in edit.deltas.items()}
        edit = ep.Edit(edit.family, deltas)
    return artifact_of(target, edit).save(folder, layouts)


def file_of(artifact, layout):
    return next(item.name for item in artifact.manifest.files if item.layout == layout)


@pytest.mark.parametrize("layout", ["diffusers", "kohya"])
@pytest.mark.parametrize("groups", GROUPS.values(), ids=GROUPS)
def test_load_lora_weights_equals_apply(pipe, base, layout, groups, tmp_path):
    artifact = written(pipe, groups, tmp_path / "art", drop="out_proj" if groups == ("text_attn",) else "")
    with ep.apply(pipe, artifact) as applied:
        ours, patched = latents(pipe), applied.patched
    assert (ours - base).abs().max() > 1e-3
    pipe.load_lora_weights(str(tmp_path / "art"), weight_name=file_of(artifact, layout), adapter_name="erase_test")
    try:
        theirs = latents(pipe)
        components = artifact.family.components
        padding = sum(name in ("text_encoder", "text_encoder_2") for name in artifact.edit.deltas)
        found = count_patched(pipe, components, "erase_test")
        assert found == patched + (padding if not any("out_proj" in key for _, key, _ in artifact.edit.items()) else 0)
    finally:
        pipe.unload_lora_weights()
    assert (theirs - ours).abs().max() <= TOLERANCE
    assert torch.equal(latents(pipe), base)


@pytest.mark.parametrize("layout", ["diffusers", "kohya"])
def test_weights_zero_negative_and_two_adapters(pipe, base, layout, tmp_path):
    first = written(pipe, ("cross_kv", "text"), tmp_path / "one")
    second = written(pipe, ("denoiser",), tmp_path / "two")
    with ep.apply(pipe, first, strength=-0.5):
        negative = latents(pipe)
    with ep.apply(pipe, first, strength=0.7), ep.apply(pipe, second, strength=0.4):
        both = latents(pipe)
    for folder, artifact, name in (("one", first, "erase_one"), ("two", second, "erase_two")):
        pipe.load_lora_weights(str(tmp_path / folder), weight_name=file_of(artifact, layout), adapter_name=name)
    try:
        pipe.set_adapters(["erase_one", "erase_two"], [0.0, 0.0])
        assert torch.equal(latents(pipe), base)
        pipe.set_adapters(["erase_one"], [-0.5])
        assert (latents(pipe) - negative).abs().max() <= TOLERANCE
        pipe.set_adapters(["erase_one", "erase_two"], [0.7, 0.4])
        assert (latents(pipe) - both).abs().max() <= TOLERANCE
    finally:
        pipe.unload_lora_weights()


def test_default_file_is_found_by_folder(pipe, base, tmp_path):
    artifact = written(pipe, ("cross_kv",), tmp_path / "art")
    with ep.apply(pipe, artifact):
        ours = latents(pipe)
    pipe.load_lora_weights(str(tmp_path / "art"), weight_name="pytorch_lora_weights.safetensors")
    try:
        assert (latents(pipe) - ours).abs().max() <= TOLERANCE
    finally:
        pipe.unload_lora_weights()


def test_peft_reads_its_folders(pipe, tmp_path):
    from peft import PeftModel

    artifact = written(pipe, ("denoiser", "text"), tmp_path / "art", ("peft",))
    components = sorted(artifact.edit.deltas)
    deltas = {(c, k): d.dense() for c, k, d in artifact.edit.items()}
    for component in components:
        module = getattr(pipe, component)
        before = {name: value.detach().clone() for name, value in module.state_dict().items()}
        wrapped = PeftModel.from_pretrained(module, tmp_path / "art" / f"peft_{component}")
        merged = wrapped.merge_and_unload()
        changed = 0
        for name, value in merged.state_dict().items():
            key = (component, name.removeprefix("text_model.") if component != "unet" else name)
            expected = before[name] + deltas[key] if key in deltas else before[name]
            changed += key in deltas
            assert (value - expected).abs().max() < 1e-5, name
        assert changed == len(artifact.edit.deltas[component])
        module.load_state_dict(before)


def test_load_lora_adapter_reads_the_peft_folder(pipe, base, tmp_path):
    artifact = written(pipe, ("cross_attn",), tmp_path / "art", ("patch", "peft"))
    with ep.apply(pipe, artifact):
        ours = latents(pipe)
    pipe.unet.load_lora_adapter(
        str(tmp_path / "art" / "peft_unet"), prefix="base_model.model", weight_name="adapter_model.safetensors"
    )
    try:
        assert (latents(pipe) - ours).abs().max() <= TOLERANCE
    finally:
        pipe.unet.unload_lora()
    assert torch.equal(latents(pipe), base)


@pytest.mark.parametrize("layout", ["diffusers", "kohya"])
def test_text_projection_alone(layout, tmp_path):
    """Only the second encoder of SDXL has one; alone, diffusers would not even recognise the file."""
    from erase_plugins.artifacts.edit import Edit, LowRank
    from erase_plugins.testing.tiny import tiny_sdxl

    pipe = tiny_sdxl()
    target = DiffusersTarget(pipe, "model")
    ref = next(ref for ref in target.info.refs if ref.path == "text_projection")
    delta = LowRank(torch.randn(2, ref.shape[1]), 0.3 * torch.randn(ref.shape[0], 2))
    edit = Edit("sdxl", {ref.component: {ref.weight: delta}})
    artifact = artifact_of(target, edit).save(tmp_path / "art")
    base = latents(pipe)
    with ep.apply(pipe, artifact):
        ours = latents(pipe)
    pipe.load_lora_weights(str(tmp_path / "art"), weight_name=file_of(artifact, layout), adapter_name="erase_test")
    assert (ours - base).abs().max() > 1e-3
    assert (latents(pipe) - ours).abs().max() <= TOLERANCE
