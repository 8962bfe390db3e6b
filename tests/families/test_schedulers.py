"""Samplers made from the configuration of another one."""

from __future__ import annotations

import pytest
import torch

from erase_plugins.families.schedulers import make_scheduler
from erase_plugins.testing.models import shared_pipeline


@pytest.mark.parametrize("said", [None, True])
def test_latents_are_not_clipped_unless_the_model_says_so(said):
    """SDXL comes with a sampler that has no such word; DDIM would clip to -1..1 by default."""
    config = dict(shared_pipeline("tiny_sdxl").scheduler.config) | ({} if said is None else {"clip_sample": said})
    schedule = make_scheduler(config, "ddim", 5, "cpu")
    clean, noise = torch.full((1, 4, 2, 2), 3.0), torch.ones(1, 4, 2, 2)
    step = schedule.timesteps[2]
    found = schedule.step(noise, step, schedule.add_noise(clean, noise, step)).pred_original_sample
    torch.testing.assert_close(found, torch.ones(1, 4, 2, 2) if said else clean)
