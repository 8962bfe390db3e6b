"""Attention layers by their diffusers path, as ComfyUI announces them to patches."""

from __future__ import annotations

import pytest

from comfy_nodes.addons import Place, place_of
from erase_plugins.families.checkpoint import _BY_WIDTH
from erase_plugins.manager import get_manager

CONFIG = {
    "layers_per_block": 2,
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
}


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("down_blocks.0.attentions.0.transformer_blocks.0.attn2", Place("attn2_output_patch", "input", 1, 0)),
        ("down_blocks.2.attentions.1.transformer_blocks.7.attn1", Place("attn1_output_patch", "input", 8, 7)),
        ("mid_block.attentions.0.transformer_blocks.9.attn2", Place("attn2_output_patch", "middle", 0, 9)),
        ("up_blocks.1.attentions.2.transformer_blocks.0.attn2", Place("attn2_output_patch", "output", 5, 0)),
    ],
)
def test_layers_are_found_by_block_and_index(path, place):
    assert place_of(path, CONFIG) == place


@pytest.mark.parametrize(("family", "width", "count"), [("sd1", 768, 16), ("sdxl", 2048, 70)])
def test_every_cross_attention_layer_of_full_sized_models_has_a_place_of_its_own(family, width, count):
    configs = _BY_WIDTH[width]
    info = get_manager().family(family).info("model", configs)
    paths = {ref.path.removesuffix(".to_k") for ref in info.modules("cross_kv") if ref.path.endswith(".to_k")}
    places = {place_of(path, configs["unet"]) for path in paths}
    assert len(paths) == len(places) == count
