"""What modules of a denoiser write about pictures of given prompts, along trajectories of the model as it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from erase_plugins.engine.activations import looked_at
from erase_plugins.engine.context import RunContext
from erase_plugins.engine.trajectories import ask, draw_picks, harvest, start_noise
from erase_plugins.families.base import ModuleRef, Target

#: states that pass the denoiser together
_BATCH = 16


def image_tokens(
    target: Target, refs: Sequence[ModuleRef], prompts: Sequence[str], generator: torch.Generator, ctx: RunContext,
    *, steps: int, picked: int, guidance: float,
) -> Iterator[tuple[str, list[int], Tensor]]:  # fmt: skip
    """(module path, numbers of the prompts, tokens (states, tokens, d)), for the half of guidance with the prompt.

    Args:
        target: the model.
        refs: modules whose outputs are seen: tokens (batch, tokens, d) or maps (batch, d, height, width).
        prompts: one trajectory each.
        generator: randomness.
        ctx: counts passes.
        steps: of the sampler.
        picked: states of a trajectory that are looked at.
        guidance: classifier-free guidance of the trajectories.
    """
    scheduler = target.scheduler(steps, "ddim")
    noise = start_noise(target, scheduler, len(prompts), generator)
    picks = draw_picks(len(prompts), steps, min(picked, steps), generator)
    cond = target.encode(prompts)
    states = harvest(
        target, scheduler, noise, cond, target.blank(len(prompts)), picks, guidance=guidance, ctx=ctx
    )  # fmt: skip
    caught: dict[str, Tensor] = {}

    def catcher(path: str) -> Any:
        def catch(_module: Any, _args: Any, output: Tensor) -> None:
            caught[path] = as_tokens(output.detach())

        return catch

    hooks = [target.module(ref).register_forward_hook(catcher(ref.path)) for ref in refs]
    try:
        batch = min(_BATCH, looked_at(noise.shape))
        for start in range(0, len(states), batch):
            part = states[torch.arange(start, min(start + batch, len(states)))]
            numbers = part.row.tolist()
            with torch.no_grad():
                ask(target, part.inputs, part.timestep, cond[numbers], ctx)
            yield from ((path, numbers, tokens) for path, tokens in caught.items())
    finally:
        for hook in hooks:
            hook.remove()


def as_tokens(output: Tensor) -> Tensor:
    """Tokens (batch, tokens, d) of a module's output, which may be a map (batch, d, height, width)."""
    return output.flatten(2).transpose(1, 2) if output.ndim == 4 else output
