"""Single-file checkpoints: configuration guessed from tensor shapes, enough to plan and to rename."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_SD1 = {
    "_class_name": "UNet2DConditionModel", "sample_size": 64, "in_channels": 4, "out_channels": 4,
    "layers_per_block": 2, "block_out_channels": [320, 640, 1280, 1280], "cross_attention_dim": 768,
    "attention_head_dim": 8,
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
}  # fmt: skip
_SD2 = {**_SD1, "cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20], "use_linear_projection": True}
_SDXL = {
    "_class_name": "UNet2DConditionModel", "sample_size": 128, "in_channels": 4, "out_channels": 4,
    "layers_per_block": 2, "block_out_channels": [320, 640, 1280], "cross_attention_dim": 2048,
    "attention_head_dim": [5, 10, 20], "transformer_layers_per_block": [1, 2, 10], "use_linear_projection": True,
    "addition_embed_type": "text_time", "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
}  # fmt: skip
_CLIP_L = {"architectures": ["CLIPTextModel"], "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
           "num_attention_heads": 12, "max_position_embeddings": 77, "vocab_size": 49408}  # fmt: skip
_CLIP_H = {
    **_CLIP_L,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 23,
    "num_attention_heads": 16,
}
_CLIP_G = {"architectures": ["CLIPTextModelWithProjection"], "hidden_size": 1280, "intermediate_size": 5120,
           "num_hidden_layers": 32, "num_attention_heads": 20, "max_position_embeddings": 77, "vocab_size": 49408,
           "projection_dim": 1280}  # fmt: skip
_BY_WIDTH = {
    768: {"unet": _SD1, "text_encoder": _CLIP_L},
    1024: {"unet": _SD2, "text_encoder": _CLIP_H},
    2048: {"unet": _SDXL, "text_encoder": _CLIP_L, "text_encoder_2": _CLIP_G},
}


def expand_checkpoint(configs: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Mapping[str, Any]]:
    """Component configurations for a single-file checkpoint; other sources pass through."""
    if "checkpoint" not in configs:
        return configs
    shapes = configs["checkpoint"]["shapes"]
    width = next(shape[-1] for name, shape in shapes.items() if name.endswith("attn2.to_k.weight"))
    return {**configs, **_BY_WIDTH[width]}
