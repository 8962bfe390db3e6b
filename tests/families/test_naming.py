"""Name maps both ways, for every module of real and tiny models, without any weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from erase_plugins.errors import Unsupported
from erase_plugins.families.checkpoint import _BY_WIDTH
from erase_plugins.families.naming import diffusers_path, sgm_path, split_stem
from erase_plugins.families.source import find_source, pocket_folder
from erase_plugins.manager import get_manager

REAL = {"sd15": ("sd1", 768), "sd2": ("sd1", 1024), "sdxl": ("sdxl", 2048)}


def info_of(name):
    if name == "pocket":
        return get_manager().family("sd1").info("pocket", find_source("pocket").configs)
    family, width = REAL[name]
    return get_manager().family(family).info(name, _BY_WIDTH[width])


@pytest.mark.parametrize("layout", ["kohya", "diffusers", "checkpoint"])
@pytest.mark.parametrize("name", ["pocket", *REAL])
def test_every_module_name_comes_back(name, layout):
    info = info_of(name)
    names = info.family.names(layout, info)
    assert len(names.to_file) == len(names.from_file) == len(info.refs)  # no two modules share a name
    config = info.configs["unet"] if name == "pocket" else None  # published models need no configuration
    for ref in info.refs:
        stem = info.family.stem(layout, ref.component, ref.path, config)
        assert stem == names.to_file[(ref.component, ref.path)]
        assert info.family.locate(layout, stem, config) == (ref.component, ref.path)


@pytest.mark.parametrize(
    ("family", "component", "path", "stem"),
    [
        ("sd1", "unet", "down_blocks.0.attentions.1.transformer_blocks.0.attn2.to_k",
         "lora_unet_down_blocks_0_attentions_1_transformer_blocks_0_attn2_to_k"),
        ("sd1", "unet", "mid_block.resnets.1.time_emb_proj", "lora_unet_mid_block_resnets_1_time_emb_proj"),
        ("sd1", "text_encoder", "encoder.layers.11.self_attn.out_proj",
         "lora_te_text_model_encoder_layers_11_self_attn_out_proj"),
        ("sdxl", "unet", "down_blocks.1.attentions.0.transformer_blocks.1.attn2.to_out.0",
         "lora_unet_input_blocks_4_1_transformer_blocks_1_attn2_to_out_0"),
        ("sdxl", "unet", "up_blocks.1.upsamplers.0.conv", "lora_unet_output_blocks_5_2_conv"),
        ("sdxl", "unet", "down_blocks.0.resnets.1.conv_shortcut", "lora_unet_input_blocks_2_0_skip_connection"),
        ("sdxl", "unet", "add_embedding.linear_2", "lora_unet_label_emb_0_2"),
        ("sdxl", "text_encoder_2", "text_projection", "lora_te2_text_projection"),
    ],
)  # fmt: skip
def test_known_kohya_stems(family, component, path, stem):
    chosen = get_manager().family(family)
    assert chosen.stem("kohya", component, path) == stem
    assert chosen.locate("kohya", stem) == (component, path)


def test_sdxl_reads_diffusers_named_kohya_stems_as_well():
    family = get_manager().family("sdxl")
    stem = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
    assert family.locate("kohya", stem) == ("unet", "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k")


def test_original_names_equal_the_golden_map():
    """Every parameter of the embedded UNet against the map that ComfyUI itself uses (copied as data)."""
    golden = json.loads((Path(__file__).parent / "pocket_ldm_names.json").read_text(encoding="utf-8"))
    config = json.loads((pocket_folder() / "unet" / "config.json").read_text(encoding="utf-8"))
    assert len(golden) > 200
    for ours, theirs in golden.items():
        module, _, field = ours.rpartition(".")
        assert f"{sgm_path(module, config)}.{field}" == theirs
        assert diffusers_path(theirs.rpartition(".")[0], 1) == module


@pytest.mark.parametrize("stem", ["lora_unet_output_blocks_x_1_proj_in", "lora_te3_x", "lora_unet_input_blocks_1"])
def test_unknown_stems_are_not_located(stem):
    assert get_manager().family("sdxl").locate("kohya", stem) is None


def test_unknown_layout_is_refused():
    with pytest.raises(Unsupported, match="no names for layout"):
        get_manager().family("sd1").stem("nonsense", "unet", "conv_in")


def test_the_longest_word_wins():
    assert split_stem("time_embedding_linear_1") == "time_embedding.linear_1"
    assert split_stem("time_embed_0") == "time_embed.0"
    assert split_stem("conv_norm_out") == "conv_norm_out"
