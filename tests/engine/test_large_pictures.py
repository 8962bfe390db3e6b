"""Passes over latents of large pictures go some at a time and give the same numbers."""

from __future__ import annotations

import pytest
import torch

from erase_plugins.engine import activations
from erase_plugins.engine.adapters import Adapters
from erase_plugins.engine.attention import attention_refs
from erase_plugins.engine.context import RunContext
from erase_plugins.engine.inversion import denoising_loss
from erase_plugins.engine.pools import Rollout
from erase_plugins.training.image_pool import Pictures
from erase_plugins.workflow.models import target_of

PROMPTS = ["a dog", "pizza", "bread"]


@pytest.fixture
def target(tiny_sd1):
    return target_of(tiny_sd1(), "tiny")


@pytest.fixture
def sizes(target):
    """Samples of every pass through the denoiser."""
    found: list[int] = []
    target.pipe.unet.register_forward_pre_hook(lambda _module, args: found.append(len(args[0])))
    return found


def test_a_learned_token_sees_large_pictures_one_by_one(target, sizes, monkeypatch):
    latents, noise = torch.randn(2, 3, *target.info.latent_shape, generator=torch.Generator().manual_seed(1))
    alphas = target.scheduler(4).alphas_cumprod

    def asked():
        cond = target.encode(PROMPTS)
        cond.embeds.requires_grad_(True)
        loss = denoising_loss(target, latents, noise, torch.tensor([1, 400, 900]), alphas, cond)
        return loss.detach(), torch.autograd.grad(loss, [cond.embeds])[0]

    whole = asked()
    assert sizes == [3]
    sizes.clear()
    monkeypatch.setattr(activations, "MOST_BYTES", 1)
    pieces = asked()
    assert sizes == [1] * 6  # each once more on the way back
    torch.testing.assert_close(pieces, whole, rtol=1e-4, atol=1e-6)


def test_masks_of_large_pictures_are_read_one_by_one(target, sizes, monkeypatch):
    refs, key = attention_refs(target.info), "key"
    adapters = Adapters(target, list(target.modules("cross_kv")), 1)

    def masks():
        with adapters:
            rollout = Rollout(target, "ddim", 4, 3.0, 1, RunContext("test"), adapters)
            pool = Pictures("some", latents, target.encode(PROMPTS), rollout)
            return pool.masks(refs, [[1], [2], [1]], "attention", 0.5, key)

    latents = torch.randn(3, *target.info.latent_shape, generator=torch.Generator().manual_seed(2))
    whole = masks()
    monkeypatch.setattr(activations, "MOST_PLACES", 1)
    pieces = masks()
    assert sizes == [3, 1, 1, 1]
    assert (pieces == whole).float().mean() > 0.95


@pytest.mark.parametrize(("upcast", "computed"), [(True, torch.float32), (False, torch.float16)])
def test_pictures_are_encoded_in_float32_where_the_autoencoder_overflows_in_float16(target, upcast, computed):
    """SDXL's does: its latents would not be finite."""
    vae = target.pipe.vae.to(torch.float16)
    vae.register_to_config(force_upcast=upcast)
    seen = []
    vae.encoder.register_forward_pre_hook(lambda _module, args: seen.append(args[0].dtype))
    pictures = torch.rand(2, 3, *target.picture_size(), generator=torch.Generator().manual_seed(3)) * 2 - 1
    found = target.latents(pictures, torch.Generator().manual_seed(4))
    assert set(seen) == {computed}
    assert vae.dtype == torch.float16
    assert bool(torch.isfinite(found).all())
