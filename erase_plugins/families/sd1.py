"""Stable Diffusion 1.x and 2.x (epsilon and v prediction), and the embedded pocket model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from erase_plugins.families.naming import MOTION
from erase_plugins.families.unet import UNetFamily
from erase_plugins.hookspecs import hookimpl


class StableDiffusion1(UNetFamily):
    """One CLIP text encoder, cross-attention UNet, no pooled conditioning."""

    id = "sd1"
    title = "Stable Diffusion 1.x / 2.x"
    components = ("unet", "text_encoder")
    pipeline = "StableDiffusionPipeline"
    text_prefix: Mapping[str, str] = {"text_encoder": "lora_te"}
    checkpoint_prefix: Mapping[str, str] = {"text_encoder": "cond_stage_model.transformer"}
    original_config: Mapping[str, Any] = {
        "layers_per_block": 2,
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    }
    modelspec = "stable-diffusion-v1/lora"
    base_version = "sd_v1"
    presets = ("pocket", "sd2")
    ui_versions: Mapping[int, str] = {0: "SD1", 1024: "SD2"}

    def detect(self, configs: Mapping[str, Mapping[str, Any]]) -> bool:
        if "checkpoint" in configs:
            return configs["checkpoint"]["shapes"].get(_KEY, (0, 0))[-1] in (768, 1024)
        unet = configs.get("unet", {})
        return (
            unet.get("_class_name") in ("UNet2DConditionModel", MOTION)
            and unet.get("addition_embed_type") is None
            and "text_encoder" in configs
            and "text_encoder_2" not in configs
        )

    def profiles(self, configs: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
        found = super().profiles(configs)
        wide = configs["unet"].get("cross_attention_dim") == 1024
        return (*found, "sd2") if wide else found


_KEY = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"


@hookimpl
def erase_families() -> list[StableDiffusion1]:
    return [StableDiffusion1()]
