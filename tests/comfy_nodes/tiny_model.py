"""Runs inside the ComfyUI interpreter: a small random Stable Diffusion 1 as ComfyUI objects."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any


def tiny() -> tuple[Any, Any]:
    """(MODEL, CLIP): latents of 8 x 8, context width 32, the words of pocket; a method takes a third of its time there."""
    import torch
    from diffusers import UNet2DConditionModel

    from comfy_nodes.pocket import load_clip, load_model
    from erase_plugins.testing.tiny import tiny_sd1

    pipe = tiny_sd1()
    # ComfyUI's norms always have 32 groups
    shape = {**pipe.unet.config, "block_out_channels": (32, 64), "norm_num_groups": 32}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pipe.unet = UNet2DConditionModel.from_config(shape)
    with tempfile.TemporaryDirectory() as place:
        pipe.save_pretrained(place)
        return load_model(Path(place), "tiny"), load_clip(Path(place))
