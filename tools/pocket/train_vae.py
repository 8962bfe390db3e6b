"""Stages "vae" and "decoder": the autoencoder, then its decoder alone against a frozen encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from tools.pocket.loop import Draw, Stage
from tools.pocket.networks import latent_size

if TYPE_CHECKING:
    from torch import Tensor

    from tools.pocket.compose import Pictures
    from tools.pocket.recipe import Recipe


def to_tensor(pixels: np.ndarray) -> Tensor:
    """Bytes (n, 3, h, w) to floats in -1..1."""
    return torch.from_numpy(pixels).float() / 127.5 - 1


def picture_loss(drawn: Tensor, real: Tensor, recipe: Recipe) -> Tensor:
    """L1 + mse * MSE + edge * L1 of the horizontal and vertical differences; both (n, 3, h, w)."""
    error = drawn - real
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    return error.abs().mean() + recipe.vae_mse * error.square().mean() + recipe.vae_edge * edges


def vae_stage(vae: Any, pictures: Pictures, recipe: Recipe, device: str) -> Stage:
    """Encoder and decoder together; the KL term is a mean over latent elements."""

    def loss(draw: Draw) -> Tensor:
        real = to_tensor(pictures.sample(recipe.vae_batch, draw.rng)[0]).to(device)
        posterior = vae.encode(real).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=draw.noise).to(device)
        drawn = vae.decode(posterior.mean + posterior.std * noise).sample
        kl = 0.5 * (posterior.mean.square() + posterior.var - 1 - posterior.logvar).mean()
        return picture_loss(drawn, real, recipe) + recipe.vae_kl * kl

    return Stage("vae", recipe.vae_steps, {"vae": vae}, {"vae": recipe.vae_lr}, loss)


def decoder_stage(vae: Any, pictures: Pictures, recipe: Recipe, device: str) -> Stage:
    """The decoder alone: what latents mean no longer moves, so their whole error is its own."""
    vae.encoder.requires_grad_(False)
    vae.quant_conv.requires_grad_(False)

    def loss(draw: Draw) -> Tensor:
        real = to_tensor(pictures.sample(recipe.vae_batch, draw.rng)[0]).to(device)
        with torch.no_grad():
            latents = vae.encode(real).latent_dist.mean
        return picture_loss(vae.decode(latents).sample, real, recipe)

    return Stage("decoder", recipe.decoder_steps, {"vae": vae}, {"vae": recipe.decoder_lr}, loss)


@torch.no_grad()
def cache_latents(vae: Any, pictures: Pictures, recipe: Recipe, device: str, batch: int = 64) -> Tensor:
    """Latent means of ``copies`` jittered pictures per label: (labels, copies, 4, h, w) in fp16, not yet scaled."""
    side, labels = latent_size(recipe), pictures.labels
    latents = torch.empty(len(labels), recipe.copies, 4, side, side, dtype=torch.float16)
    for copy in range(recipe.copies):
        rng = Draw.of(recipe.seed, "latents", copy).rng
        for start in range(0, len(labels), batch):
            part = list(labels[start : start + batch])
            real = to_tensor(pictures.render(part, rng)).to(device)
            latents[start : start + len(part), copy] = vae.encode(real).latent_dist.mean.half().cpu()
    return latents


@torch.no_grad()
def psnr(vae: Any, pictures: Pictures, seed: int, count: int = 512, batch: int = 32) -> tuple[float, float]:
    """Peak signal-to-noise ratio of reconstructions in dB: mean over pictures, and of the pooled squared error.

    The mean is the usual figure; the pooled one is lower, because pictures with much detail weigh more in it.
    """
    errors = []
    for step in range(0, count, batch):
        pixels = pictures.sample(min(batch, count - step), Draw.of(seed, "psnr", step).rng)[0]
        real = to_tensor(pixels).to(vae.device, vae.dtype)
        drawn = vae.decode(vae.encode(real).latent_dist.mean).sample.clamp(-1, 1)
        errors.append((drawn - real).float().square().mean((1, 2, 3)) / 4)  # the range is 2 wide
    error = torch.cat(errors).clamp(min=1e-12)
    return float(-10 * error.log10().mean()), float(-10 * error.mean().log10())
