"""How the pipelines of the table draw: two steps, latents where the pipeline gives them, always the same noise."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tests.runtime.support.artifacts import PROMPT


def _call(pipe: Any, **options: Any) -> Tensor:
    given = {
        "prompt": PROMPT, "num_inference_steps": 2, "generator": torch.Generator().manual_seed(1), "output_type": "latent",
        "guidance_scale": 4.0, **options,
    }  # fmt: skip
    with torch.no_grad():
        found = pipe(**given)
    return (found.frames if hasattr(found, "frames") else found.images).detach().clone()


def text(pipe: Any) -> Tensor:
    return _call(pipe)


def plain_guidance(pipe: Any) -> Tensor:
    """One sample only, whose prompt opens the gate."""
    return _call(pipe, guidance_scale=1.0)


def own_token(pipe: Any) -> Tensor:
    return _call(pipe, prompt="a pizza <mine>")


def _picture(channels: int = 3) -> Tensor:
    return torch.rand(1, channels, 16, 16, generator=torch.Generator().manual_seed(2))


def image(pipe: Any) -> Tensor:
    return _call(pipe, image=_picture(), strength=1.0)


def inpaint(pipe: Any) -> Tensor:
    return _call(pipe, image=_picture(), mask_image=_picture(1).round(), strength=1.0, height=16, width=16)


def control(pipe: Any) -> Tensor:
    return _call(pipe, image=_picture(), height=16, width=16)


def perturbed(pipe: Any) -> Tensor:
    return _call(pipe, pag_scale=3.0)


def video(pipe: Any) -> Tensor:
    return _call(pipe, num_frames=2, height=16, width=16)


def plain_image_prompt(pipe: Any) -> Tensor:
    embeds = torch.randn(1, 1, 16, generator=torch.Generator().manual_seed(4))
    return _call(pipe, guidance_scale=1.0, ip_adapter_image_embeds=[embeds])


def with_image_prompt(pipe: Any) -> Tensor:
    embeds = torch.randn(2, 1, 16, generator=torch.Generator().manual_seed(4))
    return _call(pipe, ip_adapter_image_embeds=[embeds])
