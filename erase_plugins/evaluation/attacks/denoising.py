"""The loss of every attack that learns from pictures: the attacked model's own denoising loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from erase_plugins.engine.context import RunContext
from erase_plugins.engine.loop import shuffled
from erase_plugins.engine.stopping import Stop
from erase_plugins.engine.trajectories import autocast
from erase_plugins.errors import Unsupported
from erase_plugins.families.target import Conditioning, Target

#: looks at a training attack, at equal distances
LOOKS = 4
#: an attack ends early when two looks in a row show the concept this often
ENOUGH = 0.9


def question(
    target: Target, latents: Tensor, noise: Tensor, light: Tensor | float, dark: Tensor | float
) -> tuple[Tensor, Tensor]:
    """Noised latents, and what the model should say of them.

    Args:
        target: says what it predicts.
        latents, noise: (n, channels, height, width).
        light, dark: shares of both, the roots of the cumulative product and of what it lacks to 1.

    Raises:
        Unsupported: the model predicts neither noise nor velocity.
    """
    noisy = light * latents + dark * noise
    if target.info.prediction == "epsilon":
        return noisy, noise
    if target.info.prediction == "v_prediction":
        return noisy, light * noise - dark * latents
    raise Unsupported(f"{target.info.model} predicts {target.info.prediction}; epsilon and v_prediction are known")


def denoising_loss(
    target: Target, latents: Tensor, noise: Tensor, timesteps: Tensor, alphas: Tensor, cond: Conditioning,
    precision: str = "float32",
) -> Tensor:  # fmt: skip
    """Mean squared error of the prediction for noised latents, over all elements.

    Args:
        target: the model as it is attacked; gradients flow through all that is attached to it.
        latents: clean scaled latents (n, channels, height, width).
        noise: of the same shape.
        timesteps: (n,) int64.
        alphas: the scheduler's cumulative products, one per training timestep.
        cond: one prompt per latent.
        precision: "bfloat16" or "float32".

    Raises:
        Unsupported: the model predicts neither noise nor velocity.
    """
    alpha = alphas[timesteps].view(-1, 1, 1, 1)
    noisy, wanted = question(target, latents, noise, alpha.sqrt(), (1 - alpha).sqrt())
    with autocast(latents.device, precision):
        out = target.predict(noisy.to(target.dtype), timesteps, cond)
    return (wanted - out).square().mean()


@dataclass(frozen=True)
class Lessons:
    """Batches of noised training latents; step ``n`` is the same in every run and for every model with one seed.

    Attributes:
        target: the model as it is attacked.
        latents: clean scaled latents (n, channels, height, width).
        batch: latents per step.
        ctx: gives the randomness and counts passes.
        alphas: cumulative products of the scheduler.
    """

    target: Target
    latents: Tensor
    batch: int
    ctx: RunContext
    alphas: Tensor

    @classmethod
    def of(cls, target: Target, latents: Tensor, batch: int, ctx: RunContext) -> Lessons:
        """With the model's own noise schedule."""
        alphas = target.scheduler(1, "ddim").alphas_cumprod.to(latents)
        return cls(target, latents, batch, ctx, alphas)

    def picks(self, step: int) -> list[int]:
        """Which latents a step trains on."""
        found: list[int] = shuffled(self.ctx, "lessons", len(self.latents), self.batch, step).tolist()
        return found

    def loss(self, step: int, cond: Conditioning) -> Tensor:
        """`denoising_loss` of a step; ``cond`` belongs to its `picks`."""
        generator = self.ctx.generator(f"lesson {step}")
        latents = self.latents[self.picks(step)]
        noise = torch.randn(latents.shape, generator=generator).to(latents)
        timesteps = torch.randint(len(self.alphas), (len(latents),), generator=generator).to(latents.device)
        self.ctx.count("training_passes", len(latents))
        return denoising_loss(self.target, latents, noise, timesteps, self.alphas, cond, self.ctx.precision)


@dataclass(frozen=True)
class Looks(Stop):
    """Looks at a training attack now and then, and ends it when the concept is back twice in a row.

    Attributes:
        look: share of pictures that show the concept now.
    """

    look: Callable[[], float] = lambda: 0.0

    @classmethod
    def within(cls, steps: int, pictures: int, look: Callable[[], float], count: int = LOOKS) -> Looks:
        """``count`` of them at equal distances; the last falls on the end, where the attack is measured anyway."""
        return cls(ENOUGH, max(steps // count, 1), pictures, look)

    def without_end(self) -> Looks:
        """The same looks, which end nothing."""
        return replace(self, at=2.0)

    def reached(self, ctx: RunContext, done: int, edit_of: Callable[[], Any]) -> bool:
        if done == 0 or done % self.every:
            return False
        ctx.numbers[f"look {done}"] = self.look()
        last = [ctx.numbers.get(f"look {step}", 0.0) for step in (done, done - self.every)]
        return min(last) >= self.at


def looks_of(ctx: RunContext) -> dict[int, float]:
    """Steps done -> share of pictures that showed the concept, of all looks of a run."""
    found = {int(name.split()[1]): value for name, value in ctx.numbers.items() if name.startswith("look ")}
    return dict(sorted(found.items()))
