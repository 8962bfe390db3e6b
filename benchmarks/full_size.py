"""Stable Diffusion 1.5 at its full shapes with random weights and the real tokenizer."""

from __future__ import annotations

from typing import Any

#: values that all weights are cut from; a prime, so that no two layers start alike
_DRAWN = 999_983


def sd15(dtype: Any = None, seed: int = 0, denoiser: bool = True) -> Any:
    """A pipeline of U-Net (860 million values), CLIP-L and a tiny VAE; seconds to build.

    Args:
        dtype: of the weights; float32 if None.
        seed: of the weights.
        denoiser: False leaves the U-Net without values (meta tensors).
    """
    import torch
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    from erase_plugins.testing import tiny

    unet, text_encoder = unet15(), clip_l()
    for number, part in enumerate((text_encoder, unet)[: 2 if denoiser else 1]):
        fill(part, dtype or torch.float32, seed + number)
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False,
        steps_offset=1,
    )  # fmt: skip
    pipe = StableDiffusionPipeline(
        vae=tiny._vae(), text_encoder=text_encoder, tokenizer=tokenizer(), unet=unet, scheduler=scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe


def unet15() -> Any:
    """The U-Net on meta tensors."""
    import torch
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        return UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)


def clip_l() -> Any:
    """The text encoder on meta tensors."""
    import torch
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        vocab_size=49408, hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12,
        projection_dim=768, bos_token_id=49406, eos_token_id=49407, pad_token_id=49407,
    )  # fmt: skip
    with torch.device("meta"):
        return CLIPTextModel(config)


def clip_g() -> Any:
    """The second text encoder of Stable Diffusion XL on meta tensors."""
    import torch
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=49408, hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, num_attention_heads=20,
        projection_dim=1280, hidden_act="gelu", bos_token_id=49406, eos_token_id=49407, pad_token_id=1,
    )  # fmt: skip
    with torch.device("meta"):
        return CLIPTextModelWithProjection(config)


def tokenizer() -> Any:
    """CLIP's own, 77 rows (its file is in the wheel of open-clip-torch)."""
    from tests.engine.clip_words import clip_tokenizer

    return clip_tokenizer()


def fill(module: Any, dtype: Any, seed: int = 0) -> None:
    """Gives a module on meta tensors random weights of 1 / sqrt(inputs), all cut from one drawn vector."""
    import torch

    drawn = torch.randn(_DRAWN, generator=torch.Generator().manual_seed(seed))
    for name, parameter in list(module.named_parameters()):
        owner, _, leaf = name.rpartition(".")
        norm = parameter.ndim < 2
        part = drawn * (0.02 if norm else _scale(parameter)) + (1.0 if norm and leaf == "weight" else 0.0)
        values = torch.empty(parameter.numel(), dtype=dtype)
        for start in range(0, len(values), _DRAWN):
            piece = values[start : start + _DRAWN]
            piece.copy_(part.roll(start + len(name))[: len(piece)] if start else part[: len(piece)])
        setattr(module.get_submodule(owner), leaf, torch.nn.Parameter(values.reshape(parameter.shape), False))
    for name, buffer in list(module.named_buffers()):
        owner, _, leaf = name.rpartition(".")
        count = torch.arange(buffer.numel()).reshape(buffer.shape)  # position ids are all that these modules have
        module.get_submodule(owner).register_buffer(leaf, count, persistent=False)
    module.eval()


def _scale(parameter: Any) -> float:
    return 0.02 if parameter.shape[0] > 40_000 else float(parameter[0].numel() ** -0.5)


def unet_xl() -> Any:
    """The U-Net of Stable Diffusion XL on meta tensors."""
    import torch
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        return UNet2DConditionModel(
            sample_size=128, block_out_channels=(320, 640, 1280), cross_attention_dim=2048,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2, 10), attention_head_dim=(5, 10, 20), use_linear_projection=True,
            addition_embed_type="text_time", addition_time_embed_dim=256, projection_class_embeddings_input_dim=2816,
        )  # fmt: skip
