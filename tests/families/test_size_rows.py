"""The rows in which SDXL is told the size of its picture."""

from __future__ import annotations

import pytest
import torch

from erase_plugins.workflow.models import target_of


@pytest.mark.parametrize(("height", "width"), [(16, 32), (48, 16), (16, 16)])
def test_sdxl_is_told_height_before_width_as_its_pipeline_does(tiny_sdxl, height, width) -> None:
    """Original size, corner, target size, each (height, width) in pixels: what diffusers asks its denoiser with."""
    pipe = tiny_sdxl()
    told = []
    forward = pipe.unet.forward

    def spy(sample, *args, added_cond_kwargs=None, **more):
        told.append((sample.shape, added_cond_kwargs["time_ids"][0].tolist()))
        return forward(sample, *args, added_cond_kwargs=added_cond_kwargs, **more)

    pipe.unet.forward = spy
    pipe.set_progress_bar_config(disable=True)
    pipe("pizza", height=height, width=width, num_inference_steps=1, output_type="latent")
    shape, wanted = told.pop()
    assert wanted == [height, width, 0, 0, height, width]
    target = target_of(pipe, "tiny")
    latents = torch.zeros((1, *shape[1:]))
    with torch.no_grad():
        target.predict(latents, 500, target.encode(["pizza"]))
    assert told.pop() == (latents.shape, wanted)
