"""Pools of drawn pictures, noised anew."""

from __future__ import annotations

import torch

from erase_plugins.engine.adapters import Adapters
from erase_plugins.engine.context import RunContext
from erase_plugins.engine.pools import Rollout
from erase_plugins.training.image_pool import Pictures, concentrated_times
from erase_plugins.workflow.models import target_of


def test_noised_pictures_have_the_schedulers_share_of_noise(tiny_sd1):
    for prediction in ("epsilon", "v_prediction"):
        model, ctx = target_of(tiny_sd1(prediction=prediction), "tiny"), RunContext("test")
        adapters = Adapters(model, list(model.modules("cross_kv")), 1)
        rollout = Rollout(model, "ddim", 4, 3.0, 1, ctx, adapters)
        with adapters:
            pool = Pictures.drawn(rollout, "anchor", ["bread"] * 3, "key")
            states, _ = pool.batch(3, 0, lambda size, _generator: torch.tensor([10, 500, 990])[:size])
        scheduler = model.scheduler(4)
        clean = pool.latents[states.row]
        share = scheduler.alphas_cumprod[states.timestep][:, None, None, None]
        noise = (states.inputs - share.sqrt() * clean) / (1 - share).sqrt()
        velocity = prediction == "v_prediction"
        wanted = scheduler.get_velocity(clean, noise, states.timestep) if velocity else noise
        torch.testing.assert_close(states.predictions["noise"], wanted, rtol=1e-3, atol=1e-3)


def test_pictures_are_finished_trajectories_of_the_teacher(tiny_sd1):
    """The same steps as the scheduler's own loop, whatever the adapters hold."""
    model, ctx = target_of(tiny_sd1(), "tiny"), RunContext("test")
    adapters = Adapters(model, list(model.modules("cross_kv")), 1)
    with torch.no_grad():
        for slot in adapters.slots:
            slot.B.normal_()
    rollout = Rollout(model, "ddim", 4, 3.0, 1, ctx, adapters)
    with adapters:
        found = Pictures.drawn(rollout, "anchor", ["bread", "pizza"], "key").latents
    solver, cond = model.scheduler(4), model.encode(["bread", "pizza"])
    x = torch.randn((2, *model.info.latent_shape), generator=ctx.generator("picture anchor 0"))
    with torch.no_grad():
        for stamp in solver.timesteps:
            null, own = (model.predict(x, stamp, rows) for rows in (model.encode(["", ""]), cond))
            x = solver.step(null + 3.0 * (own - null), stamp, x).prev_sample
    torch.testing.assert_close(found, x, rtol=1e-4, atol=1e-4)


def test_timesteps_are_concentrated():
    t = concentrated_times(4000, torch.Generator().manual_seed(0))
    assert ((t > 180) & (t < 420)).double().mean() > 0.85
    assert 280 < t.double().mean() < 320
