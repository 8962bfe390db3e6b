"""Pools of finished pictures (as latents) that the base model draws, noised anew in every training step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from erase_plugins.engine.loop import shuffled
from erase_plugins.engine.pools import Rollout
from erase_plugins.engine.trajectories import States, ask_pair, guided, start_noise
from erase_plugins.families.base import Conditioning

#: timesteps (n,) for a batch, drawn from a generator
Times = Callable[[int, torch.Generator], Tensor]


@dataclass(frozen=True)
class Pictures:
    """Latents of drawn pictures.

    Attributes:
        name: names the pool, its randomness and its file in the work folder.
        latents: (n, channels, height, width), as the denoiser's data.
        cond: prompt of each picture.
        rollout: how they were drawn.
    """

    name: str
    latents: Tensor
    cond: Conditioning
    rollout: Rollout

    @classmethod
    def drawn(cls, rollout: Rollout, name: str, prompts: Sequence[str], key: str, batch: int = 32) -> Pictures:
        """One picture per prompt, drawn by the teacher."""
        rollout.check(prompts)
        cond = rollout.target.encode(prompts)

        def make() -> dict[str, Tensor]:
            with rollout.adapters.disabled():
                parts = [_draw(rollout, name, cond, range(len(prompts))[place : place + batch])
                         for place in range(0, len(prompts), batch)]  # fmt: skip
            return {"latents": torch.cat(parts)}

        latents = rollout.ctx.stash(f"pictures-{name}", key, make)["latents"]
        return cls(name, latents.to(rollout.target.device), cond, rollout)

    def batch(self, size: int, step: int, times: Times | None = None) -> tuple[States, Conditioning]:
        """Batch number ``step``: shuffled passes over the pictures, noised at random timesteps.

        Args:
            size, step: of the batch.
            times: how timesteps are drawn; uniform if None.

        Returns:
            States whose prediction "noise" is what the model should say (the noise, or the velocity), and the prompts.
        """
        ctx, target = self.rollout.ctx, self.rollout.target
        rows = shuffled(ctx, f"pictures {self.name}", len(self.latents), size, step)
        generator = ctx.generator(f"noised {self.name} {step}")
        scheduler = target.scheduler(self.rollout.steps)
        stamps = (times or uniform_times(len(scheduler.alphas_cumprod)))(size, generator)
        noise = torch.randn((size, *self.latents.shape[1:]), generator=generator).to(self.latents)
        share = scheduler.alphas_cumprod.to(self.latents)[stamps.to(self.latents.device)][:, None, None, None]
        clean = self.latents[rows.to(self.latents.device)]
        inputs = share.sqrt() * clean + (1 - share).sqrt() * noise
        wanted = share.sqrt() * noise - (1 - share).sqrt() * clean if target.info.prediction[0] == "v" else noise
        states = States(inputs, inputs, stamps.to(self.latents.device), torch.zeros_like(rows), rows, {"noise": wanted})
        return states, self.cond[rows.tolist()]


def uniform_times(count: int) -> Times:
    """Timesteps uniform in 0..count-1."""
    return lambda size, generator: torch.randint(count, (size,), generator=generator)


@torch.no_grad()
def _draw(rollout: Rollout, name: str, cond: Conditioning, rows: range) -> Tensor:
    """Latents of one batch of pictures at the end of their trajectories."""
    target, ctx = rollout.target, rollout.ctx
    solver = target.scheduler(rollout.steps, rollout.sampler)
    x = start_noise(target, solver, len(rows), ctx.generator(f"picture {name} {rows.start}"))
    null, mine = target.encode([""]), cond[list(rows)]
    for stamp in solver.timesteps:
        inputs = solver.scale_model_input(x, stamp)
        first, second = ask_pair(target, inputs, stamp.expand(len(rows)), null, mine, ctx)
        x = solver.step(guided(first, second, rollout.guidance), stamp, x).prev_sample
        rollout.progress()
    return x
