"""Files of other projects: generated fixtures, each recognised and, where it can be, read or converted."""

from __future__ import annotations

import json

import pytest
import torch

from erase_plugins.artifacts.foreign import classify, describe_foreign, guess_family
from erase_plugins.artifacts.header import read_header
from erase_plugins.artifacts.tensors import write_tensors
from erase_plugins.errors import ArtifactError, CorruptArtifact
from erase_plugins.manager import get_manager
from erase_plugins.workflow.artifacts import inspect_file, load_artifact
from tests.layouts.making import artifact_of, random_edit

STEM = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
SGM = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k"
PATH = "down_blocks.0.attentions.0.transformer_blocks.0.attn2"


def pair(stem, width=768, alpha=None, names=("lora_down", "lora_up")):
    found = {f"{stem}.{names[0]}.weight": torch.ones(2, width), f"{stem}.{names[1]}.weight": torch.ones(320, 2)}
    return found if alpha is None else {**found, f"{stem}.alpha": torch.tensor(alpha)}


def encoder():
    names = ("self_attn.q_proj", "mlp.fc1", "layer_norm1")
    found = {
        f"text_model.encoder.layers.{i}.{name}.{field}": torch.zeros(4) for i in range(2) for name in names
        for field in ("weight", "bias")
    }  # fmt: skip
    return {**found, "text_model.embeddings.token_embedding.weight": torch.zeros(4, 4)}


FILES = {
    # name: (tensors, metadata, kind, family, convertible, needs base)
    "kohya sd1": (pair(STEM, alpha=1.0), {"ss_base_model_version": "sd_v1"}, "kohya", "sd1", True, False),
    "kohya sd2": (pair(STEM, 1024), {"ss_v2": "True"}, "kohya", "sd1", True, False),
    "kohya sdxl by name": (pair(SGM.replace("attn2_to_k", "ff_net_2")), {}, "kohya", "sdxl", True, False),
    "kohya sdxl by width": (pair(STEM, 2048), {}, "kohya", "sdxl", True, False),
    "leco": (pair(STEM, alpha=2.0), {"prompts": "[{'target': 'dog'}]", "rank": "4"}, "leco", "sd1", True, False),
    "slider": (pair(SGM, 2048), {"name": "age_slider"}, "leco", "sdxl", True, False),
    "spm": (pair(STEM, alpha=1.0), {"project": "spm", "prompts": "[]"}, "spm", "sd1", True, False),
    "esd": ({f"{PATH}.to_k.weight": torch.ones(4, 768)}, {}, "esd", "sd1", True, True),
    "uce with prefix": ({f"unet.{PATH}.to_v.weight": torch.ones(4, 2048)}, {}, "esd", "sdxl", True, True),
    "concept ablation": ({f"unet.{PATH}.to_k.weight": torch.ones(4, 768)}, {"kind": "delta"}, "delta", "sd1", True, True),
    "advunlearn": (encoder(), {}, "text-encoder", "sd1", True, True),
    "peft": (pair(f"base_model.model.{PATH}.to_k", names=("lora_A", "lora_B")), {}, "peft", "sd1", True, False),
    "diffusers": (pair(f"unet.{PATH}.to_k", names=("lora_A", "lora_B")), {}, "diffusers", "sd1", True, False),
    "old diffusers": (
        {f"unet.{PATH}.processor.to_k_lora.down.weight": torch.ones(2, 768),
         f"unet.{PATH}.processor.to_k_lora.up.weight": torch.ones(320, 2)}, {}, "old-diffusers", "sd1", True, False),
    "diff patch": ({f"{STEM}.diff": torch.ones(320, 768), f"{STEM}.diff_b": torch.ones(320)}, {}, "diff", "sd1", True, False),
    "lokr": ({f"{STEM}.lokr_w1": torch.ones(4, 4), f"{STEM}.lokr_w2": torch.ones(4, 4)}, {}, "lycoris", "sd1", False, False),
    "checkpoint": (
        {"model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": torch.ones(4, 768)}, {},
        "checkpoint", "sd1", False, False),
    "embedding": ({"emb_params": torch.ones(2, 768)}, {}, "embedding", None, False, False),
    "nonsense": ({"foo.bar": torch.ones(3)}, {}, "unknown", None, False, False),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_inspect_says_what_it_is(name, tmp_path):
    tensors, meta, kind, family, convertible, base = FILES[name]
    write_tensors(tmp_path / "file.safetensors", tensors, meta)
    found = inspect_file(tmp_path / "file.safetensors")
    assert (found["kind"], found["family"], found["convertible"], found["needs_base"]) == (
        kind,
        family,
        convertible,
        base,
    )
    assert found["how"]
    assert found["title"]
    assert found["tensors"] == len(tensors)
    json.dumps(found)
    assert (
        kind == "unknown"
        or kind in ("esd", "delta", "text-encoder")
        or found["title"] in describe_foreign(read_header(tmp_path / "file.safetensors"))
    )


def test_rank_components_and_evidence(tmp_path):
    text = pair("lora_te_text_model_encoder_layers_0_mlp_fc1")
    write_tensors(tmp_path / "x.safetensors", {**pair(STEM), **text}, {"ss_network_dim": "2"})
    found = inspect_file(tmp_path / "x.safetensors")
    assert (found["rank"], found["one_rank"], found["modules"]) == (2, True, 2)
    assert found["components"] == ["unet", "text_encoder"]
    assert found["evidence"] == "context width 768 (Stable Diffusion 1.x)"
    assert found["says"] == {"ss_network_dim": "2"}


@pytest.mark.parametrize(
    ("parts", "evidence"),
    [
        (
            {"hada_w1_a": (320, 2), "hada_w1_b": (2, 768), "hada_w2_a": (320, 2), "hada_w2_b": (2, 768)},
            "context width 768",
        ),
        ({"lokr_w1": (4, 4), "lokr_w2_a": (80, 2), "lokr_w2_b": (2, 192)}, "names only"),
        ({"lora_down.weight": (2, 768), "lora_up.weight": (320, 2), "dora_scale": (320, 1)}, "context width 768"),
        ({"oft_blocks": (4, 80, 80)}, "names only"),
    ],
)
def test_modules_and_width_of_lycoris_files(parts, evidence, tmp_path):
    stems = (STEM, STEM.replace("to_k", "to_v"))
    tensors = {f"{stem}.{part}": torch.ones(shape) for stem in stems for part, shape in parts.items()}
    write_tensors(tmp_path / "l.safetensors", {**tensors, **{f"{stem}.alpha": torch.tensor(1.0) for stem in stems}}, {})
    facts = inspect_file(tmp_path / "l.safetensors")
    assert (facts["kind"], facts["modules"], facts["family"]) == ("lycoris", 2, "sd1")
    assert facts["evidence"].startswith(evidence)


def test_our_own_file_names_its_manifest(pocket_target, tmp_path):
    saved = artifact_of(pocket_target, random_edit(pocket_target, ("cross_kv",))).save(tmp_path / "a")
    for item in saved.manifest.files:
        if item.name.endswith(".json"):
            continue
        found = inspect_file(tmp_path / "a" / item.name)
        assert (found["kind"], found["family"], found["layout"]) == ("ours", "sd1", item.layout)
        assert found["manifest"]["concepts"][0]["text"] == "pizza"


@pytest.mark.parametrize("name", ["kohya sd1", "leco", "slider", "spm", "diffusers", "old diffusers", "diff patch"])
def test_readable_files_load_with_an_honest_manifest(name, tmp_path):
    tensors, meta, kind, family, _, _ = FILES[name]
    write_tensors(
        tmp_path / "My File (v2).safetensors", tensors, {**meta, "ss_sd_model_name": "/home/someone/base.ckpt"}
    )
    artifact = load_artifact(tmp_path / "My File (v2).safetensors")
    manifest = artifact.manifest
    assert (manifest.family, manifest.method["source"], manifest.name) == (family, kind, "my_file_v2")
    assert manifest.concepts == ()
    assert manifest.base["model"] == "base.ckpt"
    assert "someone" not in manifest.to_json()
    assert len(artifact.edit) == (2 if name == "diff patch" else 1)


@pytest.mark.parametrize("name", ["esd", "lokr", "checkpoint", "embedding", "nonsense"])
def test_what_cannot_be_applied_is_refused_with_its_kind(name, tmp_path):
    tensors, meta, kind, *_ = FILES[name]
    write_tensors(tmp_path / "f.safetensors", tensors, meta)
    with pytest.raises(ArtifactError) as caught:
        load_artifact(tmp_path / "f.safetensors")
    title = classify(read_header(tmp_path / "f.safetensors")).title
    assert title in str(caught.value)
    assert kind == "unknown" or "unknown" not in str(caught.value)


def test_family_by_metadata_beats_names(tmp_path):
    families = [entry.item for entry in get_manager().families()]
    write_tensors(
        tmp_path / "x.safetensors", pair(STEM, 32), {"modelspec.architecture": "stable-diffusion-xl-v1-base/lora"}
    )
    assert guess_family(read_header(tmp_path / "x.safetensors"), families).id == "sdxl"
    write_tensors(tmp_path / "y.safetensors", pair(STEM, 32), {"ss_base_model_version": "sdxl_base_v0-9"})
    assert guess_family(read_header(tmp_path / "y.safetensors"), families).id == "sdxl"


@pytest.mark.parametrize(
    ("start", "family"), [("te_", "sd1"), ("te1_", "sdxl"), ("te2_", "sdxl"), ("transformer_", None)]
)
def test_a_lone_text_encoder_is_told_by_its_number(start, family, tmp_path):
    stem = f"lora_{start}text_model_encoder_layers_0_self_attn_q_proj"
    write_tensors(tmp_path / "x.safetensors", pair(stem, 32), {})
    found = inspect_file(tmp_path / "x.safetensors")
    assert found["family"] == family
    assert ("SD3 and FLUX have such a one" in found["evidence"]) is (start == "te1_")


def test_pickles_are_not_opened(tmp_path):
    torch.save({"a": torch.zeros(2)}, tmp_path / "x.safetensors")
    with pytest.raises(CorruptArtifact, match=r"pickle or zip file .*weights_only=True"):
        inspect_file(tmp_path / "x.safetensors")


def flow_file(place, *modules, width=64):
    """A LoRA of a flow transformer that says nothing of its base."""
    tensors = {}
    for module in modules:
        tensors[f"transformer.{module}.lora_A.weight"] = torch.ones(2, width)
        tensors[f"transformer.{module}.lora_B.weight"] = torch.ones(width, 2)
    write_tensors(place, tensors, {})
    return place


@pytest.mark.parametrize(
    ("modules", "width", "family"),
    [
        (("single_transformer_blocks.3.attn.to_q", "transformer_blocks.5.attn.to_q"), 64, "flux"),
        (("transformer_blocks.5.attn.to_q",), 3072, "flux"),
        (("transformer_blocks.5.attn.to_q",), 2432, "sd3"),
    ],
)
def test_flow_transformers_are_told_apart(modules, width, family, tmp_path):
    file = flow_file(tmp_path / "x.safetensors", *modules, width=width)
    assert inspect_file(file)["family"] == family
    assert load_artifact(file).edit.family == family


def test_what_two_families_could_read_is_not_guessed(tmp_path):
    file = flow_file(tmp_path / "x.safetensors", "transformer_blocks.5.attn.to_q")
    assert inspect_file(file)["family"] is None
    with pytest.raises(ArtifactError, match=r"may be of family .*flux.*say which with family"):
        load_artifact(file)
    assert load_artifact(file, "flux").edit.family == "flux"
