"""From a picture back to noise, and forth again: the deterministic path of a sampler, gone backwards by a model itself.

DDIM (arXiv 2010.02502) without guidance, or Euler's method on the path of a flow model. Each step backwards asks the
model at the noise level that it leads to, from the state that it begins with, so that it is the step forwards undone
wherever the prediction changes little on the way.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from erase_plugins.engine.activations import looked_at
from erase_plugins.errors import Unsupported
from erase_plugins.evaluation.draw import draw
from erase_plugins.evaluation.prompts import Prompt, texts_and_seeds
from erase_plugins.families.capabilities import DENOISER

if TYPE_CHECKING:
    from erase_plugins.evaluation.run import Subject
    from erase_plugins.families.conditioning import Conditioning
    from erase_plugins.families.target import Target

#: pictures per pass
_BATCH = 16


def inverted(subject: Subject, clean: Tensor, cond: Conditioning, steps: int) -> Tensor:
    """The noise (n, channels, height, width) from which the model, as it is now, draws these latents unguided."""
    schedule, latents = subject.target.scheduler(steps), clean
    if subject.target.info.prediction == "flow":
        for here, there in pairwise(schedule.sigmas.flip(0).tolist()):
            latents = latents + (there - here) * subject.target.predict(latents, 1000 * there, cond)
        return latents
    from diffusers import DDIMInverseScheduler

    back = DDIMInverseScheduler.from_config(schedule.config)
    back.set_timesteps(steps)
    for step in back.timesteps:
        latents = back.step(subject.target.predict(latents, step, cond), step, latents).prev_sample
    return latents


@torch.no_grad()
def own_noise(subject: Subject, clean: Tensor, steps: int) -> Tensor:
    """The noise that the model, as it is now, finds behind latents (n, channels, height, width) without a prompt."""
    few = min(_BATCH, looked_at(clean.shape))
    parts = [inverted(subject, part, no_prompt(subject.target, len(part)), steps) for part in clean.split(few)]
    return torch.cat(parts)


def no_prompt(target: Target, count: int) -> Conditioning:
    """The empty prompt, encoded by the text encoders as they are now wherever they can be asked so."""
    from erase_plugins.evaluation.attacks.material import encoded_now

    try:
        return encoded_now(target, [""] * count)
    except Unsupported:  # T5 is no part that an edit changes
        return target.encode([""] * count)


def regenerated(subject: Subject, prompts: Sequence[Prompt], pictures: Tensor, steps: int) -> Tensor:
    """Pictures (n, 3, height, width) in 0..1 by the prompts, from the noise that the model finds behind ``pictures``.

    The way back has no prompt and no guidance, the way forth the prompts, the model's own guidance, and what guards it.

    Args:
        subject: the model as it is now.
        prompts: text and seed of each.
        pictures: of the same shape, in 0..1.
        steps: back, and as many forth.

    Raises:
        Unsupported: a flow model whose pipeline has a sampler that does not go its straight path.
    """
    sampler = _forwards(subject, steps)
    clean = subject.target.latents(2 * pictures - 1, torch.Generator().manual_seed(subject.seed))

    def made(places: Sequence[int]) -> Tensor:
        rows = list(places)
        return draw(
            subject.pipe, *texts_and_seeds([prompts[row] for row in rows]), steps=steps, guidance=subject.guidance,
            denoiser=subject.target.network(DENOISER), noise=own_noise(subject, clean[rows], steps),
            sampler=sampler, fast=False,
        )  # fmt: skip

    drawn = subject.answered(*texts_and_seeds(prompts), made)
    subject.queries += len(prompts)
    return drawn


def _forwards(subject: Subject, steps: int) -> Any:
    """The sampler whose steps `inverted` undoes, as a stock pipeline takes it."""
    if subject.target.info.prediction != "flow":
        return subject.target.scheduler(steps)
    from diffusers import FlowMatchEulerDiscreteScheduler

    own = subject.pipe.scheduler
    if not isinstance(own, FlowMatchEulerDiscreteScheduler):
        raise Unsupported(f"the sampler of {subject.model}, {type(own).__name__}, does not go a flow's straight path")
    return FlowMatchEulerDiscreteScheduler.from_config(own.config, stochastic_sampling=False)
