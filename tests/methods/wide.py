"""Random Stable Diffusion 1 pipelines whose cross-attention reads rows of the published width, 768."""

from __future__ import annotations

from typing import Any

from erase_plugins.workflow.models import as_target

WIDTH = 768


def wide_sd1(seed: int = 0) -> Any:
    """8 x 8 latents, two levels of 64 and 320 channels, one text layer of width 768; presets of full-sized models."""
    import torch
    from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from erase_plugins.testing import tiny

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(
            sample_size=8, in_channels=4, out_channels=4, layers_per_block=1, block_out_channels=(64, 320),
            norm_num_groups=4, cross_attention_dim=WIDTH, attention_head_dim=8,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        )  # fmt: skip
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=1819,
                hidden_size=WIDTH,
                intermediate_size=WIDTH,
                num_hidden_layers=1,
                num_attention_heads=12,
                max_position_embeddings=32,
                projection_dim=32,
                bos_token_id=0,
                eos_token_id=1,
                pad_token_id=1,
                hidden_act="quick_gelu",
            )
        )
        vae = tiny._vae()
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False,
        steps_offset=1,
    )  # fmt: skip
    pipe = tiny._one_encoder(
        StableDiffusionPipeline, vae=vae, text_encoder=text_encoder, unet=unet, scheduler=scheduler
    )
    return as_target(pipe)


def full_sd1() -> Any:
    """Stable Diffusion 1.5 at its full shapes, random weights and 16 x 16 latents."""
    from benchmarks.full_size import sd15

    pipe = sd15()
    pipe.unet.register_to_config(sample_size=16)
    return as_target(pipe)
