"""Untrained parts of the pipeline, as the recipe describes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tools.pocket.recipe import Recipe

#: a text encoder ends with these special tokens; the end token also pads
START, END = 0, 1


def build_vae(recipe: Recipe) -> Any:
    """Autoencoder: pictures (n, 3, size, size) to latents (n, 4, size / f, size / f), f = 2^(levels - 1)."""
    from diffusers import AutoencoderKL

    levels = len(recipe.vae_channels)
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        layers_per_block=1,
        sample_size=recipe.size,
        norm_num_groups=recipe.vae_groups,
        block_out_channels=recipe.vae_channels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
    )


def build_unet(recipe: Recipe) -> Any:
    """Denoiser with cross-attention everywhere but in the lowest level's blocks."""
    from diffusers import UNet2DConditionModel

    upper = len(recipe.unet_channels) - 1
    return UNet2DConditionModel(
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        sample_size=latent_size(recipe),
        norm_num_groups=recipe.unet_groups,
        block_out_channels=recipe.unet_channels,
        cross_attention_dim=recipe.context,
        attention_head_dim=recipe.heads,  # in this class the argument is the number of heads
        down_block_types=("CrossAttnDownBlock2D",) * upper + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * upper,
    )


def build_text_encoder(recipe: Recipe, vocabulary: int) -> Any:
    """CLIP text encoder: token ids (n, tokens) to (n, tokens, context)."""
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=recipe.context,
        intermediate_size=4 * recipe.context,
        projection_dim=recipe.context,
        num_hidden_layers=recipe.text_layers,
        num_attention_heads=recipe.heads,
        max_position_embeddings=recipe.tokens,
        hidden_act="quick_gelu",
        bos_token_id=START,
        eos_token_id=END,
        pad_token_id=END,
    )
    return CLIPTextModel(config)


def build_transformer(recipe: Recipe) -> Any:
    """Denoiser of `pocket-flow`: joint attention over two by two latents and the rows of two text encoders."""
    from diffusers import SD3Transformer2DModel

    return SD3Transformer2DModel(
        sample_size=latent_size(recipe),
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=recipe.flow_layers,
        attention_head_dim=recipe.flow_width // recipe.flow_heads,
        num_attention_heads=recipe.flow_heads,
        joint_attention_dim=2 * recipe.context,
        caption_projection_dim=recipe.flow_width,
        pooled_projection_dim=2 * recipe.context,
        pos_embed_max_size=latent_size(recipe),
        qk_norm="rms_norm",
    )


def build_flow_scheduler() -> Any:
    """Straight path from noise to picture, levels in equal steps."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(shift=1.0)


def build_scheduler() -> Any:
    """The noise schedule of Stable Diffusion 1."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="epsilon",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def latent_size(recipe: Recipe) -> int:
    """Latent cells per side."""
    return recipe.size // 2 ** (len(recipe.vae_channels) - 1)
