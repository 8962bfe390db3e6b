"""Fused checkpoints: same names, dtypes and metadata; only planned weights differ; outputs as when applied."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

import erase_plugins as ep
import erase_plugins.artifacts.manifest
import erase_plugins.artifacts.store
from erase_plugins.artifacts.edit import CONTEXT, AddOn, ContextMap, Edit, LowRank
from erase_plugins.artifacts.header import read_header
from erase_plugins.artifacts.places import MARKER
from erase_plugins.artifacts.tensors import TensorFile, read_tensors, write_tensors
from erase_plugins.errors import AlreadyApplied, ArtifactError, BaseMismatch, RequestError, Unsupported
from erase_plugins.families.checkpoint import _BY_WIDTH
from erase_plugins.families.naming import sgm_path
from erase_plugins.families.source import pocket_folder
from erase_plugins.manager import get_manager
from erase_plugins.runtime.checkpoint_file import FUSED_KEY, rewrite
from erase_plugins.workflow.applying import fuse_checkpoint
from erase_plugins.workflow.models import target_of
from tests.layouts.making import artifact_of, latents, random_edit

GROUPS = ("cross_attn", "text_attn")


def context_edit(target) -> Edit:
    generator = torch.Generator().manual_seed(2)
    width = target.info.width
    A, B = torch.randn(2, width, generator=generator), 0.05 * torch.randn(width, 2, generator=generator)
    return Edit(target.family.id, {"unet": {CONTEXT: ContextMap(A, B)}})


def single_file(pipe, path, dtype=torch.float16):
    """A checkpoint in original naming, with parts that no edit touches."""
    config = dict(pipe.unet.config)
    tensors = {}
    for name, value in pipe.unet.state_dict().items():
        module, _, field = name.rpartition(".")
        tensors[f"model.diffusion_model.{sgm_path(module, config)}.{field}"] = value.to(dtype)
    second = getattr(pipe, "text_encoder_2", None) is not None
    prefix = "conditioner.embedders.0.transformer" if second else "cond_stage_model.transformer"
    for name, value in pipe.text_encoder.state_dict().items():
        tensors[f"{prefix}.text_model.{name.removeprefix('text_model.')}"] = value.to(dtype)
    if second:
        tensors |= open_clip(pipe.text_encoder_2.state_dict(), "conditioner.embedders.1.model.", dtype)
    tensors["first_stage_model.decoder.conv_in.weight"] = torch.randn(4, 4, 3, 3)
    tensors["model_ema.decay"] = torch.tensor(0.9999)
    tensors["model_ema.num_updates"] = torch.tensor(7)
    write_tensors(path, tensors, {"format": "pt", "modelspec.title": "Dreamy"})
    return path


def open_clip(state, prefix, dtype):
    """OpenCLIP naming of a CLIP encoder: query, key and value in one tensor."""
    found, layers = {}, {int(name.split(".")[3]) for name in state if ".layers." in name}
    rest = {
        "self_attn.out_proj": "attn.out_proj",
        "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj",
        "layer_norm1": "ln_1",
    }
    for layer in layers:
        old, new = f"text_model.encoder.layers.{layer}", f"{prefix}transformer.resblocks.{layer}"
        for field in ("weight", "bias"):
            parts = [state[f"{old}.self_attn.{letter}_proj.{field}"] for letter in "qkv"]
            found[f"{new}.attn.in_proj_{field}"] = torch.cat(parts).to(dtype)
            for theirs, ours in rest.items():
                found[f"{new}.{ours}.{field}"] = state[f"{old}.{theirs}.{field}"].to(dtype)
    return found


def changed_names(before, after):
    first, second = TensorFile(before), TensorFile(after)
    assert list(first) and set(first) == set(second)
    for name in first:
        assert first.header.tensors[name].dtype == second.header.tensors[name].dtype
        assert first.header.tensors[name].shape == second.header.tensors[name].shape
    return {name for name in first if first.raw(name) != second.raw(name)}


@pytest.fixture(scope="module")
def half_pocket(pocket_target):
    """The embedded model is stored in fp16, so its fp16 checkpoint holds exactly its weights."""
    return pocket_target


@pytest.mark.parametrize("kind", ["lora", "context"])
def test_single_file_of_the_pocket(kind, half_pocket, tmp_path):
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    target, pipe = half_pocket, half_pocket.pipe
    edit = random_edit(target, GROUPS) if kind == "lora" else context_edit(target)
    artifact = artifact_of(target, edit)
    source = single_file(pipe, tmp_path / "dreamy.safetensors")
    original = source.read_bytes()
    config = dict(pipe.unet.config)
    done = fuse_checkpoint(artifact, source, tmp_path / "out.safetensors", 0.9, configs={"unet": config})
    planned = target.modules("cross_kv") if kind == "context" else [r for g in GROUPS for r in target.modules(g)]
    names = {f"{target.family.stem('checkpoint', r.component, r.path, config)}.weight" for r in planned}
    assert changed_names(source, tmp_path / "out.safetensors") == names
    assert done.modules == len(names)
    meta, before = read_header(tmp_path / "out.safetensors").metadata, read_header(source).metadata
    assert {key: meta[key] for key in before} == dict(before)
    assert set(meta) - set(before) == {FUSED_KEY}
    assert json.loads(meta[FUSED_KEY])["strength"] == 0.9
    assert source.read_bytes() == original
    # values: float32 sum, cast once
    lowered = edit if kind == "lora" else ep.artifacts.store.lower_for(edit, target)
    fused = TensorFile(tmp_path / "out.safetensors")
    for component, key, delta in lowered.items():
        module = key.removesuffix(".weight")
        name = f"{target.family.stem('checkpoint', component, module, config)}.weight"
        expected = (TensorFile(source).get(name).float() + 0.9 * delta.dense()).half()
        assert torch.equal(fused.get(name), expected)
    # diffusers' own converter understands the names, and the UNet draws what the applied edit draws
    if kind == "context":
        tensors, _ = read_tensors(tmp_path / "out.safetensors")
        state = convert_ldm_unet_checkpoint(tensors, config)
        saved = {name: value.clone() for name, value in pipe.unet.state_dict().items()}
        with ep.apply(pipe, artifact, strength=0.9):
            ours = latents(pipe)
        try:
            pipe.unet.load_state_dict({name: value.float() for name, value in state.items()})
            fp16 = latents(pipe)
        finally:
            pipe.unet.load_state_dict(saved)
        assert (fp16 - ours).abs().max() < 2e-2  # rounding of the stored fp16 weights
        assert (fp16 - latents(pipe)).abs().max() > 0.1


def test_fused_float32_folder_draws_what_apply_draws(pocket_target, tmp_path):
    import diffusers

    pipe = pocket_target.pipe
    pipe.save_pretrained(tmp_path / "base")
    (tmp_path / "base" / "README.md").write_text("mine", encoding="utf-8")
    edit = random_edit(pocket_target, ("cross_kv", "text_mlp"))
    artifact = artifact_of(pocket_target, edit)
    done = fuse_checkpoint(artifact, tmp_path / "base", tmp_path / "fused", target=pocket_target)
    assert set(done.files) == {"unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"}
    files = {path.relative_to(tmp_path / "base") for path in (tmp_path / "base").rglob("*") if path.is_file()}
    made = {path.relative_to(tmp_path / "fused") for path in (tmp_path / "fused").rglob("*") if path.is_file()}
    assert made == files | {Path(MARKER)}
    for name in files:
        same = (tmp_path / "base" / name).read_bytes() == (tmp_path / "fused" / name).read_bytes()
        assert same == (name.as_posix() not in done.files), name
    changed = changed_names(tmp_path / "base" / done.files[1], tmp_path / "fused" / done.files[1])
    assert changed == set(edit.deltas["unet"])
    with ep.apply(pipe, artifact):
        ours = latents(pipe)
    loaded = diffusers.StableDiffusionPipeline.from_pretrained(tmp_path / "fused", safety_checker=None)
    loaded.set_progress_bar_config(disable=True)
    assert (latents(loaded) - ours).abs().max() < 1e-4


def test_shipped_folder_with_symlinks_variants_and_stale_pickles(pocket_target, tmp_path):
    """As a Hub cache has it: links to blobs; and a pickled copy of the UNet that would have been stale."""
    source, blob = tmp_path / "base", tmp_path / "blob"
    shutil.copytree(pocket_folder(), source)
    weights = source / "unet" / "diffusion_pytorch_model.safetensors"
    shutil.move(weights, blob)
    weights.symlink_to(blob)
    shutil.copy(blob, source / "unet" / "diffusion_pytorch_model.fp16.safetensors")
    (source / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"old")
    artifact = artifact_of(pocket_target, context_edit(pocket_target))
    done = fuse_checkpoint(artifact, source, tmp_path / "out")
    assert done.left_out == ("unet/diffusion_pytorch_model.bin",)
    assert len(done.files) == 2
    assert not (tmp_path / "out" / done.left_out[0]).exists()
    first, second = (TensorFile(tmp_path / "out" / name) for name in done.files)
    assert all(first.raw(name) == second.raw(name) for name in first)
    assert len(changed_names(blob, tmp_path / "out" / done.files[1])) == len(pocket_target.modules("cross_kv"))


def test_no_copy_of_the_model_as_it_was_stays_in_the_folder(pocket_target, tmp_path):
    """As the repository of SDXL has them: the whole model in one file, and its parts for other programs."""
    source = tmp_path / "base"
    shutil.copytree(pocket_folder(), source)
    stale = {
        "pocket.safetensors", "pocket-pruned.ckpt", "unet/diffusion_flax_model.msgpack", "unet/model.onnx",
        "unet/model.onnx_data", "unet/openvino_model.bin", "unet/openvino_model.xml", "unet/tf/model.h5",
    }  # fmt: skip
    kept = {"vae/model.onnx", "text_encoder/flax_model.msgpack", "notes.txt", "unet/notes.txt"}
    for name in stale | kept:
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_bytes(b"old")
    artifact = artifact_of(pocket_target, context_edit(pocket_target))
    done = fuse_checkpoint(artifact, source, tmp_path / "out")
    assert done.left_out == tuple(sorted(stale))
    assert not [name for name in stale if (tmp_path / "out" / name).exists()]
    assert all((tmp_path / "out" / name).read_bytes() == b"old" for name in kept)


def test_strength_zero_copies_every_tensor(pocket_target, tmp_path):
    source = single_file(pocket_target.pipe, tmp_path / "a.safetensors")
    artifact = artifact_of(pocket_target, random_edit(pocket_target, GROUPS))
    config = {"unet": dict(pocket_target.pipe.unet.config)}
    fuse_checkpoint(artifact, source, tmp_path / "b.safetensors", 0.0, configs=config)
    assert changed_names(source, tmp_path / "b.safetensors") == set()


def test_open_clip_encoder_of_sdxl(tiny_sdxl, tmp_path):
    pipe = tiny_sdxl()
    target = target_of(pipe, "tiny")
    edit = random_edit(target, ("cross_kv", "text"))
    source = single_file(pipe, tmp_path / "a.safetensors", torch.float32)
    fuse_checkpoint(artifact_of(target, edit), source, tmp_path / "b.safetensors")  # published block layout fits
    before, after = TensorFile(source), TensorFile(tmp_path / "b.safetensors")
    rest = {"out_proj": "attn.out_proj", "fc1": "mlp.c_fc", "fc2": "mlp.c_proj"}
    checked = 0
    for key, delta in edit.deltas["text_encoder_2"].items():
        parts = key.split(".")
        layer = f"conditioner.embedders.1.model.transformer.resblocks.{parts[2]}"
        if parts[-2] in rest:
            name, rows = f"{layer}.{rest[parts[-2]]}.weight", slice(None)
        else:
            index = "qkv".index(parts[-2][0])
            name, rows = f"{layer}.attn.in_proj_weight", slice(index * 32, (index + 1) * 32)
        assert torch.equal(after.get(name)[rows], before.get(name)[rows] + delta.dense())
        checked += 1
    assert checked == 3 * 6
    assert after.raw("conditioner.embedders.1.model.transformer.resblocks.0.attn.in_proj_bias") == before.raw(
        "conditioner.embedders.1.model.transformer.resblocks.0.attn.in_proj_bias"
    )


@pytest.mark.parametrize(("width", "family"), [(768, "sd1"), (2048, "sdxl")])
def test_published_names_and_shapes(width, family, tmp_path):
    """Real names and shapes, as a subset: all key and value projections of one level."""
    info = get_manager().family(family).info("real", _BY_WIDTH[width])
    refs = [ref for ref in info.modules("cross_kv") if ref.path.startswith(("down_blocks.1", "mid_block"))]
    tensors = {
        f"{info.family.stem('checkpoint', ref.component, ref.path)}.weight": torch.zeros(ref.shape, dtype=torch.float16)
        for ref in refs
    }
    known = "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"
    assert tensors[known].shape == (640, width)
    write_tensors(tmp_path / "a.safetensors", tensors, {})
    edit = Edit(family, {"unet": {CONTEXT: ContextMap(torch.ones(1, width), torch.ones(width, 1))}})
    artifact = ep.Artifact(
        ep.artifacts.manifest.Manifest(name="x", method={"id": "t"}, concepts=(), base={"family": family}), edit
    )
    write_tensors(tmp_path / "a.safetensors", {name: value + 0.001 for name, value in tensors.items()}, {})
    done = fuse_checkpoint(artifact, tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    assert done.modules == len(refs)
    assert changed_names(tmp_path / "a.safetensors", tmp_path / "b.safetensors") == set(tensors)
    row = TensorFile(tmp_path / "b.safetensors").get(known)[0, 0]
    weight = torch.tensor(0.001, dtype=torch.float16).double()
    assert abs(float(row) - float(weight + weight * width)) < 2e-3


@pytest.mark.parametrize("strength", [-0.9, 0.9])
def test_a_map_is_fused_once_and_not_taken_out_of_a_checkpoint(pocket_target, tmp_path, strength):
    pocket_target.pipe.save_pretrained(tmp_path / "base")
    artifact = ep.erase(pocket_target, "owl", options={"vocabulary": 0})
    fuse_checkpoint(artifact, tmp_path / "base", tmp_path / "fused", 0.9)
    for any_base in (False, True):
        with pytest.raises(AlreadyApplied, match="is fused into the weights of this unet already"):
            fuse_checkpoint(artifact, tmp_path / "fused", tmp_path / "out", strength, any_base=any_base)
    assert not (tmp_path / "out").exists()


def test_refusals_write_nothing(pocket_target, tmp_path, tiny_sd1):
    artifact = artifact_of(pocket_target, random_edit(pocket_target, GROUPS))
    other = target_of(tiny_sd1(), "tiny")
    source = single_file(pocket_target.pipe, tmp_path / "a.safetensors")
    config = {"unet": dict(pocket_target.pipe.unet.config)}
    out = tmp_path / "out.safetensors"
    with pytest.raises(BaseMismatch, match="architecture"):
        fuse_checkpoint(
            artifact,
            single_file(other.pipe, tmp_path / "t.safetensors"),
            out,
            configs={"unet": {"layers_per_block": 1}},
        )
    with pytest.raises(BaseMismatch, match="architecture"):
        fuse_checkpoint(artifact, source, out, target=other, configs=config)
    tuned = single_file(pocket_target.pipe, tmp_path / "tuned.safetensors")
    tensors, meta = read_tensors(tuned)
    write_tensors(tuned, {n: v * 1.1 if v.is_floating_point() else v for n, v in tensors.items()}, meta)
    with pytest.raises(BaseMismatch, match="any_base=True"):
        fuse_checkpoint(artifact, tuned, out, configs=config)
    assert fuse_checkpoint(artifact, tuned, tmp_path / "ok.safetensors", configs=config, any_base=True).modules
    addon = Edit("sd1", {"unet": {"mid_block": AddOn("bottleneck", {"down": torch.ones(1, 2)}, {})}})
    with pytest.raises(Unsupported, match="adds modules"):
        fuse_checkpoint(artifact_of(pocket_target, addon), source, out)
    missing = Edit("sd1", {"unet": {"nowhere.weight": LowRank(torch.ones(1, 2), torch.ones(2, 1))}})
    with pytest.raises(BaseMismatch, match="patched 0 of 1"):
        fuse_checkpoint(artifact_of(pocket_target, missing), source, out, configs=config)
    (tmp_path / "x.ckpt").write_bytes(b"\x80\x02")
    with pytest.raises(Unsupported, match="pickled"):
        fuse_checkpoint(artifact, tmp_path / "x.ckpt", out)
    with pytest.raises(RequestError, match="must not replace"):
        fuse_checkpoint(artifact, source, source)
    with pytest.raises(RequestError, match="strength"):
        fuse_checkpoint(artifact, source, out, float("nan"))
    assert not out.exists()
    out.write_bytes(b"mine")
    with pytest.raises(ArtifactError, match="exists already"):
        fuse_checkpoint(artifact, source, out, configs=config)
    assert out.read_bytes() == b"mine"


def test_quantised_weights_are_refused(pocket_target, tmp_path):
    source = single_file(pocket_target.pipe, tmp_path / "a.safetensors")
    tensors, meta = read_tensors(source)
    ref = pocket_target.modules("cross_kv")[0]
    config = dict(pocket_target.pipe.unet.config)
    name = f"{pocket_target.family.stem('checkpoint', 'unet', ref.path, config)}.weight"
    tensors[name] = tensors[name].to(torch.float8_e4m3fn)
    write_tensors(source, tensors, meta)
    artifact = artifact_of(pocket_target, random_edit(pocket_target, ("cross_kv",)))
    with pytest.raises((Unsupported, BaseMismatch)):
        fuse_checkpoint(artifact, source, tmp_path / "b.safetensors", configs={"unet": config}, any_base=True)
    assert not (tmp_path / "b.safetensors").exists()


def test_one_tensor_is_in_memory_at_a_time(pocket_target, tmp_path, monkeypatch):
    """Of parameters that stay as they are one value is read; everything else goes from file to file in pieces."""
    source = tmp_path / "source.safetensors"
    single_file(pocket_target.pipe, source)
    artifact = artifact_of(pocket_target, context_edit(pocket_target))
    header = read_header(source)
    sizes, read = [], TensorFile.read

    def counted(file, begin, end):
        sizes.append(end - begin)
        return read(file, begin, end)

    monkeypatch.setattr(TensorFile, "read", counted)
    configs = {"unet": dict(pocket_target.pipe.unet.config)}
    found = fuse_checkpoint(artifact, source, tmp_path / "fused.safetensors", configs=configs)
    entries = header.tensors.items()
    changed = sum(entry.end - entry.begin for name, entry in entries if "attn2.to_k" in name or "attn2.to_v" in name)
    assert found.modules
    assert max(sizes) <= max(entry.end - entry.begin for entry in header.tensors.values())
    assert sum(sizes) <= 3 * changed + 4 * len(header.tensors)


@pytest.mark.parametrize("changed", ["a", "b"])
@pytest.mark.parametrize("system", [True, False])
def test_a_disk_that_fills_within_the_last_write_is_told(changed, system, tmp_path, monkeypatch):
    """A file without a buffer takes what fits and raises at the next write only."""
    resource = pytest.importorskip("resource")
    if not system:
        monkeypatch.delattr(os, "copy_file_range", raising=False)
    source, new = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    write_tensors(source, {"a": torch.zeros(100_000), "b": torch.ones(100_000)}, {})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (source.stat().st_size - 1000, before[1]))
    try:
        with pytest.raises(OSError, match=r"too large|space"):
            rewrite(TensorFile(source), new, {(source, changed): [lambda weight: weight + 1]}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
