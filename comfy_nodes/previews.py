"""Pictures of a concept while a method trains: same noise every time, drawn with the model as it is at that moment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from erase_plugins.engine.trajectories import ask_pair, guided, start_noise
from erase_plugins.errors import Unsupported
from erase_plugins.families.base import Target

from .wording import in_the_graph

#: latents (1, channels, height, width) -> picture (height, width, 3) in 0..1
Decode = Callable[[Tensor], Tensor]
_STEPS, _GUIDANCE = 8, 4.0


class Drawing:
    """Draws a prompt with a target, for `host.Progress`.

    Args:
        target: trained in place or through its modules.
        prompt: what is drawn.
        decode: makes the picture.
    """

    def __init__(self, target: Target, prompt: str, decode: Decode) -> None:
        self.target, self.prompt, self.decode = target, prompt, decode
        self.problem = ""

    @torch.no_grad()
    def __call__(self, progress: Any) -> Any:
        """A PIL picture; None when the user stops meanwhile, or when nothing can be drawn here."""
        from PIL import Image

        if self.problem:
            return None
        try:
            latents = self._sample(progress)
        except Unsupported as error:
            self.problem = f"no pictures while training: {in_the_graph(error)}"
            return None
        if latents is None:
            return None
        pixels = (self.decode(latents).float().cpu().clamp(0, 1) * 255).round().byte().numpy()
        return Image.fromarray(pixels)

    def _sample(self, progress: Any) -> Tensor | None:
        target = self.target
        scheduler = target.scheduler(_STEPS, "ddim")
        x = start_noise(target, scheduler, 1, torch.Generator().manual_seed(0))
        null, cond = target.encode([""]), target.encode([self.prompt])
        for stamp in scheduler.timesteps:
            if progress.stopped():
                return None
            first, second = ask_pair(target, scheduler.scale_model_input(x, stamp), stamp.expand(1), null, cond, None)
            x = scheduler.step(guided(first, second, _GUIDANCE), stamp, x).prev_sample
        return x


def decoder(model: Any, vae: Any) -> Decode:
    """Decoder for a connected MODEL: its VAE, or the rough colours that ComfyUI knows for its latents."""
    if vae is not None:
        return lambda latents: vae.decode(model.model.process_latent_out(latents))[0]
    form = model.model.latent_format
    factors, shift = form.latent_rgb_factors, getattr(form, "latent_rgb_factors_bias", None)

    def rough(latents: Tensor) -> Tensor:
        weights = torch.tensor(factors, dtype=torch.float32, device=latents.device)
        colours = torch.einsum("chw,cr->hwr", latents[0].float(), weights)
        if shift is not None:
            colours = colours + torch.tensor(shift, device=latents.device)
        return (colours + 1) / 2

    return rough


def pipeline_decoder(pipe: Any) -> Decode:
    """Decoder of a diffusers pipeline."""

    def decode(latents: Tensor) -> Tensor:
        scaled = (latents / pipe.vae.config.scaling_factor).to(pipe.vae.dtype)
        return pipe.vae.decode(scaled, return_dict=False)[0][0].permute(1, 2, 0) / 2 + 0.5

    return decode
