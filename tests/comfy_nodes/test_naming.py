"""Names and configuration of ComfyUI models, without ComfyUI."""

from __future__ import annotations

import json

import pytest

from comfy_nodes.naming import denoiser_names, encoder_names, unet_config
from comfy_nodes.pocket import original_config, vae_names
from erase_plugins.artifacts.tensors import TensorFile
from erase_plugins.errors import Unsupported
from erase_plugins.families.naming import sgm_path
from erase_plugins.families.source import pocket_folder
from tests.families.test_naming import info_of

#: what ComfyUI finds out about the published checkpoints
PUBLISHED = {
    "sd15": {
        "context_dim": 768, "model_channels": 320, "channel_mult": [1, 2, 4, 4], "num_res_blocks": [2, 2, 2, 2],
        "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0], "transformer_depth_output": [1] * 9 + [0] * 3,
        "adm_in_channels": None, "in_channels": 4, "use_linear_in_transformer": False,
    },
    "sdxl": {
        "context_dim": 2048, "model_channels": 320, "channel_mult": [1, 2, 4], "num_res_blocks": [2, 2, 2],
        "transformer_depth": [0, 0, 2, 2, 10, 10], "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
        "adm_in_channels": 2816, "in_channels": 4, "use_linear_in_transformer": True,
    },
}  # fmt: skip


@pytest.mark.parametrize("model", ["sd15", "sdxl"])
def test_published_models_are_recognised(model):
    found, wanted = unet_config(PUBLISHED[model]), info_of(model).configs["unet"]
    for name in ("block_out_channels", "layers_per_block", "cross_attention_dim", "down_block_types", "up_block_types"):
        assert found[name] == wanted[name], name
    assert found["addition_embed_type"] == wanted.get("addition_embed_type")


@pytest.mark.parametrize("model", ["sd15", "sdxl", "pocket"])
def test_every_denoiser_module_is_found_under_its_name(model):
    info = info_of(model)
    refs = [ref for ref in info.refs if ref.component == "unet"]
    keys = {f"{sgm_path(ref.path, info.configs['unet'])}.weight": ref.weight for ref in refs}
    found = denoiser_names([*keys, "scaled_fp8", "weird.thing.weight"], info.configs["unet"]["layers_per_block"])
    assert found == {ours: theirs for theirs, ours in keys.items()}


def test_pocket_configuration_comes_back():
    config = json.loads((pocket_folder() / "unet" / "config.json").read_text())
    found = unet_config(original_config(config))
    assert {name: config.get(name) for name in found if name != "_class_name"} == {
        name: value for name, value in found.items() if name != "_class_name"
    }


def test_text_encoder_names():
    keys = [
        "clip_l.transformer.text_model.encoder.layers.0.mlp.fc1.weight", "clip_l.logit_scale",
        "clip_l.transformer.text_projection.weight", "clip_g.transformer.text_projection.weight",
        "t5xxl.transformer.shared.weight",
    ]  # fmt: skip
    assert encoder_names(keys) == {
        ("text_encoder", "encoder.layers.0.mlp.fc1.weight"): keys[0],
        ("text_encoder_2", "text_projection.weight"): keys[3],
    }


@pytest.mark.parametrize("config", [{}, {"image_model": "flux", "context_in_dim": 4096}])
def test_other_architectures_are_refused_by_name(config):
    with pytest.raises(Unsupported, match="Flux has no UNet with text cross-attention"):
        unet_config(config, "Flux")


def test_autoencoder_names_of_pocket_are_distinct_and_original():
    (file,) = (pocket_folder() / "vae").glob("*.safetensors")
    keys = list(TensorFile(file))
    names = vae_names(keys, 3)
    assert len(set(names.values())) == len(keys)
    assert names["decoder.up_blocks.0.upsamplers.0.conv.weight"] == "decoder.up.2.upsample.conv.weight"
    assert names["encoder.down_blocks.1.resnets.0.conv_shortcut.bias"] == "encoder.down.1.block.0.nin_shortcut.bias"
    assert names["encoder.mid_block.attentions.0.to_out.0.weight"] == "encoder.mid.attn_1.proj_out.weight"
    assert names["decoder.conv_norm_out.weight"] == "decoder.norm_out.weight"
    assert names["quant_conv.weight"] == "quant_conv.weight"
