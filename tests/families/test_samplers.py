"""Samplers of our own give what those of diffusers give, which other people wrote."""

from __future__ import annotations

import diffusers
import pytest
import torch

from erase_plugins.errors import RequestError
from erase_plugins.families.samplers import SAMPLERS, make_sampler
from erase_plugins.families.schedulers import KINDS


def config(prediction):
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return {
        "num_train_timesteps": 1000, "trained_betas": betas.float().tolist(), "prediction_type": prediction,
        "timestep_spacing": "leading", "steps_offset": 1, "clip_sample": False, "set_alpha_to_one": False,
    }  # fmt: skip


def walk(scheduler):
    """Every state of a walk with a denoiser that is a fixed function of its input and time."""
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3)) * scheduler.init_noise_sigma
    states = [x]
    for stamp in scheduler.timesteps:
        given = scheduler.scale_model_input(x, stamp)
        x = scheduler.step(torch.tanh(given) * (0.3 + float(stamp) / 2000), stamp, x).prev_sample
        states.append(x)
    return torch.stack(states)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("steps", [1, 2, 7, 20, 50])
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_the_same_walk(kind, steps, prediction):
    theirs = getattr(diffusers, KINDS[kind]).from_config(config(prediction))
    theirs.set_timesteps(steps)
    ours = make_sampler(config(prediction), kind, steps, "cpu")
    assert ours.timesteps.tolist() == theirs.timesteps.tolist()
    assert float(ours.init_noise_sigma) == pytest.approx(float(theirs.init_noise_sigma), rel=1e-6)
    found, wanted = walk(ours), walk(theirs)
    assert float((found - wanted).abs().max() / wanted.abs().max()) < 2e-6


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_same_mixtures(prediction):
    theirs = diffusers.DDIMScheduler.from_config(config(prediction))
    ours = make_sampler(config(prediction), "own", 5, "cpu")
    x, noise = torch.randn(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(1)).unbind(0)
    times = torch.tensor([0, 500, 999])
    assert torch.allclose(ours.add_noise(x, noise, times), theirs.add_noise(x, noise, times), atol=1e-6)
    assert torch.allclose(ours.get_velocity(x, noise, times), theirs.get_velocity(x, noise, times), atol=1e-6)
    assert torch.allclose(ours.alphas_cumprod, theirs.alphas_cumprod, atol=1e-7)


def test_a_sampler_is_made_again_from_its_configuration():
    ours = make_sampler(config("epsilon"), "dpm", 5, "cpu")
    again = type(ours).from_config(ours.config)
    again.set_timesteps(5)
    assert torch.equal(walk(again), walk(make_sampler(config("epsilon"), "dpm", 5, "cpu")))


def test_an_unknown_kind_is_refused():
    with pytest.raises(RequestError, match="unknown scheduler 'heun'; choose one of own, ddim, euler, dpm"):
        make_sampler(config("epsilon"), "heun", 5, "cpu")
    assert set(SAMPLERS) == set(KINDS)
