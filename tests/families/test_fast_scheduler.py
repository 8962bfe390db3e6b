"""Few-step samplers of drawing: the noise predictor's as it was, a flow model's along its straight path."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler

from erase_plugins.families.flow import TOY_ROWS, call_options
from erase_plugins.families.schedulers import fast_scheduler
from erase_plugins.testing.models import shared_pipeline


def test_noise_predictors_keep_dpm_solver():
    own = DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, steps_offset=1)
    found, before = fast_scheduler(own), DPMSolverMultistepScheduler.from_config(own.config)
    assert type(found) is DPMSolverMultistepScheduler
    assert dict(found.config) == dict(before.config)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_a_flow_sampler_follows_a_straight_path_to_its_end(shift):
    """The velocity that points from any state to one picture leads there in few steps."""
    found = fast_scheduler(FlowMatchEulerDiscreteScheduler(shift=shift))
    found.set_timesteps(8)
    picture = torch.linspace(-1, 1, 16).reshape(1, 1, 4, 4)
    noise = torch.randn(1, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    state, sigmas = noise.clone(), found.sigmas
    assert float(sigmas[0]) == pytest.approx(1, abs=0.01) and float(sigmas[-1]) == 0
    for index, time in enumerate(found.timesteps):
        state = found.step((state - picture) / sigmas[index], time, state).prev_sample
    torch.testing.assert_close(state, picture, rtol=1e-3, atol=1e-3)


def test_shifts_that_depend_on_the_picture_stay_with_their_own_sampler():
    own = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    found = fast_scheduler(own)
    assert type(found) is FlowMatchEulerDiscreteScheduler and found is not own


def test_only_toy_sized_models_without_t5_are_given_few_rows_of_zeros():
    assert call_options(shared_pipeline("tiny_sd1")) == call_options(shared_pipeline("tiny_sd3")) == {}
    from types import SimpleNamespace

    toy = SimpleNamespace(
        text_encoder_3=None, transformer=SimpleNamespace(config={"in_channels": 4, "sample_size": 16})
    )
    assert call_options(toy) == {"max_sequence_length": TOY_ROWS}
    toy.transformer.config["sample_size"] = 128
    assert call_options(toy) == {}
