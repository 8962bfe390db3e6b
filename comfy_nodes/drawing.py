"""A pair of pictures from the same noise, drawn by ComfyUI's own sampler for a node to show."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from erase_plugins.evaluation.draw import initial_noise

from . import host
from .measuring import SAMPLER, SCHEDULER
from .targets import target_of

STEPS, GUIDANCE, SEED = 12, 5.0, 0


def before_and_after(before: tuple[Any, Any], after: tuple[Any, Any], vae: Any, prompt: str) -> Tensor:
    """Two pictures (2, height, width, 3) in 0..1.

    Args:
        before, after: MODEL and CLIP.
        vae: decodes.
        prompt: what is drawn; brackets in it are taken as in a prompt box.
    """
    target = target_of(before[0])
    noise = initial_noise(SEED, target.drawn)[None]
    pictures = [
        vae.decode(latents_of(*pair, noise, prompt, guidance=target.guidance))[..., :3].float().cpu()
        for pair in (before, after)
    ]
    return torch.cat(pictures).clone()


def latents_of(
    model: Any, clip: Any, noise: Tensor, prompt: str, steps: int = STEPS, guidance: float = GUIDANCE
) -> Tensor:
    """What the sampler makes of a prompt, (1, channels, height, width).

    Args:
        model, clip: MODEL and CLIP.
        noise: of that shape.
        prompt: brackets in it are taken as in a prompt box.
        steps: of the sampler.
        guidance: of the prompt over the empty one.
    """
    import comfy.sample

    positive, negative = (clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in (prompt, ""))
    found: Tensor = comfy.sample.sample(
        model, noise, steps, guidance, SAMPLER, SCHEDULER, positive, negative, torch.zeros_like(noise),
        callback=host.stop_if_asked, disable_pbar=True, seed=SEED,
    )  # fmt: skip
    return found
