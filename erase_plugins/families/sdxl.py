"""Stable Diffusion XL: two CLIP text encoders, pooled conditioning and time ids."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from erase_plugins.families.unet import UNetFamily
from erase_plugins.hookspecs import hookimpl

if TYPE_CHECKING:
    from torch import Tensor

    from erase_plugins.families.base import ModelSpec

_KEY = "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"


class StableDiffusionXL(UNetFamily):
    """Context is the two penultimate hidden states side by side; the pooled embedding is a second path."""

    id = "sdxl"
    title = "Stable Diffusion XL"
    components = ("unet", "text_encoder", "text_encoder_2")
    pipeline = "StableDiffusionXLPipeline"
    beside_rows = "the pooled row of the last text encoder"
    text_prefix: Mapping[str, str] = {"text_encoder": "lora_te1", "text_encoder_2": "lora_te2"}
    checkpoint_prefix: Mapping[str, str] = {"text_encoder": "conditioner.embedders.0.transformer"}
    original_config: Mapping[str, Any] = {
        "layers_per_block": 2,
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    }
    modelspec = "stable-diffusion-xl-v1-base/lora"
    base_version = "sdxl_base_v1-0"
    ui_versions: Mapping[int, str] = {0: "SDXL"}

    def detect(self, configs: Mapping[str, Mapping[str, Any]]) -> bool:
        if "checkpoint" in configs:
            return configs["checkpoint"]["shapes"].get(_KEY, (0, 0))[-1] == 2048
        unet = configs.get("unet", {})
        return unet.get("addition_embed_type") == "text_time" and "text_encoder_2" in configs

    def encode_ids(self, pipe: Any, ids: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        import torch

        # the refiner has the second encoder only
        found = [getattr(pipe, name)(ids[name], output_hidden_states=True) for name in sorted(ids)]
        return torch.cat([item.hidden_states[-2] for item in found], dim=-1), found[-1][0]

    def spare_encoders(self, info: ModelSpec) -> tuple[str, ...]:
        """The first one of a refiner, whose denoiser reads rows of the second alone."""
        second = info.configs.get("text_encoder_2", {}).get("hidden_size")
        return ("text_encoder",) if info.configs["unet"].get("cross_attention_dim") == second else ()

    def text_layers(self, info: ModelSpec, component: str) -> int:
        return super().text_layers(info, component) - 1  # the context is the penultimate state

    def sgm_in(self, layout: str) -> bool:
        """Kohya files for SDXL use sgm names: sd-scripts trains on its own sgm UNet."""
        return layout in ("kohya", "checkpoint")


@hookimpl
def erase_families() -> list[StableDiffusionXL]:
    return [StableDiffusionXL()]
