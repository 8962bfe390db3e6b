"""Stages "denoiser" and "refine": UNet and text encoder together, from scratch, on cached latents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from tools.pocket.captions import caption
from tools.pocket.loop import Draw, Stage, precision

if TYPE_CHECKING:
    from torch import Tensor

    from tools.pocket.compose import Pictures
    from tools.pocket.recipe import Recipe


def min_snr_weights(cumulative: Tensor, gamma: float) -> Tensor:
    """Loss weight per timestep for noise prediction, min(SNR, gamma) / SNR (Hang et al. 2023, min-SNR weighting).

    Args:
        cumulative: products of alphas (timesteps,).
        gamma: largest signal-to-noise ratio that counts in full.
    """
    ratio = cumulative / (1 - cumulative)
    return ratio.clamp(max=gamma) / ratio


def token_ids(tokenizer: Any, texts: list[str]) -> Tensor:
    """Padded ids (n, tokens), as the pipeline makes them."""
    length = tokenizer.model_max_length
    return tokenizer(texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt").input_ids


def denoiser_stage(
    name: str,
    parts: dict[str, Any],
    tokenizer: Any,
    scheduler: Any,
    latents: Tensor,
    pictures: Pictures,
    recipe: Recipe,
    device: str,
) -> Stage:
    """The stage ``name`` ("denoiser" or "refine") over ``parts`` (unet, text_encoder).

    Args:
        latents: scaled, (labels, copies, 4, h, w).
    """
    steps, rate = (
        (recipe.refine_steps, recipe.refine_lr) if name == "refine" else (recipe.denoiser_steps, recipe.denoiser_lr)
    )
    cumulative = scheduler.alphas_cumprod
    weights = min_snr_weights(cumulative, recipe.min_snr).to(device)
    unet, text_encoder = parts["unet"], parts["text_encoder"]

    def loss(draw: Draw) -> Tensor:
        count = recipe.denoiser_batch
        picks = draw.rng.integers(len(pictures.labels), size=count)
        copies = draw.rng.integers(latents.shape[1], size=count)
        texts = [caption(pictures.world, pictures.labels[pick], recipe, draw.rng) for pick in picks]
        clean = latents[torch.from_numpy(picks), torch.from_numpy(copies)].float()
        times = torch.randint(len(cumulative), (count,), generator=draw.noise)
        noise = torch.randn(clean.shape, generator=draw.noise)
        noisy = scheduler.add_noise(clean, noise, times).to(device)
        times, noise = times.to(device), noise.to(device)
        with precision(device):
            states = text_encoder(token_ids(tokenizer, texts).to(device))[0]
            predicted = unet(noisy, times, encoder_hidden_states=states, return_dict=False)[0]
        error = functional.mse_loss(predicted.float(), noise, reduction="none").mean((1, 2, 3))
        return (weights[times] * error).mean()

    rates = {"unet": rate, "text_encoder": rate * recipe.text_lr_share}
    return Stage(name, steps, parts, rates, loss, recipe.ema)
