"""Stock loaders really run on the written files; latents must equal ours."""

from __future__ import annotations

import pytest
import torch

import erase_plugins as ep
from erase_plugins.workflow.models import target_of
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
    target = target_of(pipe, "model")
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
        place = tmp_path / "art" / ("" if component == "unet" else f"peft_{component}")
        wrapped = PeftModel.from_pretrained(module, place)
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
        str(tmp_path / "art"), prefix="base_model.model", weight_name="adapter_model.safetensors"
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
    target = target_of(pipe, "model")
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


@pytest.mark.parametrize("groups", GROUPS.values(), ids=GROUPS)
def test_lycoris_builds_its_network_from_the_kohya_file(groups, tmp_path, monkeypatch):
    """Its builder reads ``.alpha`` of every module. It knows the names of a text encoder that has a ``text_model``."""
    from torch import nn

    from erase_plugins.testing.tiny import tiny_sd1

    lycoris = pytest.importorskip("lycoris", reason="pip install lycoris-lora")
    pipe = tiny_sd1()
    artifact = written(pipe, groups, tmp_path / "art")
    base = latents(pipe)
    with ep.apply(pipe, artifact) as applied:
        ours, patched = latents(pipe), applied.patched
    assert (ours - base).abs().max() > 1e-3
    text = nn.Module()
    text.text_model = pipe.text_encoder
    file, networks = str(tmp_path / "art" / file_of(artifact, "kohya")), []
    for prefix, module in (("lora_unet", pipe.unet), ("lora_te", text)):
        monkeypatch.setattr(lycoris.LycorisNetwork, "LORA_PREFIX", prefix)
        network, weights = lycoris.create_lycoris_from_weights(1.0, file, module)
        network.apply_to()
        networks.append(network)
    padding = groups == ("text_mlp",)  # a zero projection that diffusers wants to see
    found = sum(len(network.loras) for network in networks)
    assert found == patched + padding == sum(name.endswith(".alpha") for name in weights)
    assert (latents(pipe) - ours).abs().max() <= TOLERANCE
    for network in networks:
        network.restore()
    assert torch.equal(latents(pipe), base)


def test_kohya_files_hold_alpha_for_every_module_and_older_ones_without_are_read(pipe, tmp_path):
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    artifact = written(pipe, ("cross_kv", "text"), tmp_path / "art", ("kohya",))
    file = tmp_path / "art" / file_of(artifact, "kohya")
    tensors = load_file(file)
    stems = {name.partition(".")[0] for name in tensors}
    assert {f"{stem}.alpha" for stem in stems} <= set(tensors)
    for stem in stems:
        alpha = tensors[f"{stem}.alpha"]
        assert alpha.shape == () and float(alpha) == len(tensors[f"{stem}.lora_down.weight"]) == artifact.edit.rank
    with safe_open(file, "pt") as opened:
        header = opened.metadata()
    old = {name: part for name, part in tensors.items() if not name.endswith(".alpha")}
    save_file(old, tmp_path / "old_kohya.safetensors", metadata=header)
    new, before = (ep.load_artifact(place).edit for place in (file, tmp_path / "old_kohya.safetensors"))
    for (_, _, one), (_, _, two) in zip(new.items(), before.items(), strict=True):
        assert torch.equal(one.dense(), two.dense())


def test_the_peft_layout_promises_what_works_without_further_arguments():
    from erase_plugins.manager import get_manager

    layout = get_manager().layout("peft")
    assert "PeftModel.from_pretrained" in layout.title
    assert "load_lora_adapter" not in layout.title, "it needs prefix and weight_name, see the test above"
    assert layout.readers == ("peft",)


@pytest.mark.parametrize("layout", ["diffusers", "kohya"])
def test_every_file_of_an_artifact_is_taken_with_its_name_alone(pipe, base, layout, tmp_path):
    """A folder that holds one layout's file needs no weight_name at all."""
    artifact = written(pipe, ("cross_kv", "text"), tmp_path / "art", ("patch", layout))
    with ep.apply(pipe, artifact):
        ours = latents(pipe)
    alone = tmp_path / "alone"
    alone.mkdir()
    name = file_of(artifact, layout)
    (alone / name).write_bytes((tmp_path / "art" / name).read_bytes())
    pipe.load_lora_weights(str(alone))
    try:
        assert (latents(pipe) - ours).abs().max() <= TOLERANCE
    finally:
        pipe.unload_lora_weights()
    assert torch.equal(latents(pipe), base)
