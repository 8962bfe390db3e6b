"""Harvested teacher trajectories: every visited state with the predictions that guidance computed there anyway.

A classifier-free-guided rollout evaluates the denoiser on the empty prompt and on the prompt at every state. A loss
that is built from exactly these two predictions needs no further teacher pass: the states are stored and training draws
from them. States of one trajectory are correlated; the marginal law of (x_t, t) is that of a fresh rollout per step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from erase_plugins.engine.activations import looked_at
from erase_plugins.engine.context import RunContext
from erase_plugins.engine.precision import FULL, autocast
from erase_plugins.families.base import Conditioning, Target

Switch = Callable[[], AbstractContextManager[Any]]
#: solvers without memory of earlier steps: finished rows may leave the batch
_ONE_STEP = ("DDIMScheduler", "EulerDiscreteScheduler")


@dataclass(frozen=True, eq=False)
class States:
    """Visited states, one row each.

    Attributes:
        x: latents as the sampler holds them (n, channels, height, width).
        inputs: what the denoiser is given: ``x`` scaled by the scheduler (n, channels, height, width).
        timestep: scheduler timestep (n,).
        index: sampler step, 0 is pure noise (n,).
        row: prompt of the trajectory (n,).
        predictions: name -> stored prediction (n, channels, height, width): "prompt", "null" where guidance asked for
            it, and what was watched.
    """

    x: Tensor
    inputs: Tensor
    timestep: Tensor
    index: Tensor
    row: Tensor
    predictions: Mapping[str, Tensor]

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, rows: Tensor) -> States:
        parts = {name: getattr(self, name)[rows] for name in _PARTS}
        return replace(self, predictions={name: value[rows] for name, value in self.predictions.items()}, **parts)

    def tensors(self) -> dict[str, Tensor]:
        """Everything as named tensors, for a file."""
        named = {name: getattr(self, name) for name in _PARTS}
        return named | {f"predictions.{name}": value for name, value in self.predictions.items()}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> States:
        """Inverse of `tensors`."""
        prefix = "predictions."
        stored = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        return cls(**{name: tensors[name] for name in _PARTS}, predictions=stored)


_PARTS = ("x", "inputs", "timestep", "index", "row")


def guided(null: Tensor, prompt: Tensor, guidance: float) -> Tensor:
    """Classifier-free guidance: null + guidance (prompt - null)."""
    return null + guidance * (prompt - null)


def start_noise(target: Target, scheduler: Any, count: int, generator: torch.Generator) -> Tensor:
    """Initial latents (count, channels, height, width), scaled as the scheduler wants them."""
    noise = torch.randn((count, *target.info.latent_shape), generator=generator)
    return (noise * scheduler.init_noise_sigma).to(target.device)


def draw_picks(count: int, steps: int, harvest: int, generator: torch.Generator) -> list[list[int]]:
    """For each of ``count`` trajectories up to ``harvest`` distinct sampler steps, uniform over 0..steps-1."""
    return [sorted(torch.randperm(steps, generator=generator)[:harvest].tolist()) for _ in range(count)]


def ask(target: Target, inputs: Tensor, timestep: Tensor, cond: Conditioning, ctx: RunContext | None) -> Tensor:
    """Raw prediction in float32, counted in samples, computed in the precision of ``ctx``.

    Autocast is entered per call: it caches cast weights while open, and adapters change between calls.
    """
    if ctx is not None:
        ctx.count("unet_forwards", len(inputs))
    with autocast(inputs.device, FULL if ctx is None else ctx.precision):
        return target.predict(inputs.to(target.dtype), timestep, cond).float()


def ask_pair(
    target: Target, inputs: Tensor, timestep: Tensor, null: Conditioning, cond: Conditioning, ctx: RunContext | None
) -> tuple[Tensor, Tensor]:
    """Predictions for the empty prompt and for the prompts, one batched pass."""
    both = join([repeat(null, len(inputs)), cond])
    out = ask(target, torch.cat([inputs, inputs]), torch.cat([timestep, timestep]), both, ctx)
    first, second = out.chunk(2)
    return first, second


@torch.no_grad()
def harvest(
    target: Target,
    scheduler: Any,
    noise: Tensor,
    cond: Conditioning,
    null: Conditioning | None,
    picks: Sequence[Sequence[int]],
    *,
    guidance: float,
    watch: Mapping[str, Conditioning] | None = None,
    drive: Switch = nullcontext,
    observe: Switch | None = None,
    batch: int = 32,
    ctx: RunContext | None = None,
    progress: Callable[[], None] = lambda: None,
) -> States:
    """Rolls trajectories out and keeps the picked states.

    Args:
        target: the model.
        scheduler: with its timesteps set; not changed.
        noise: x_T, already multiplied by ``init_noise_sigma`` (n, channels, height, width).
        cond: prompt of each trajectory (n prompts).
        null: the empty prompt (1 prompt), or one per trajectory; None: no guidance, half the cost.
        picks: per trajectory the sampler steps to keep; step 0 keeps ``noise`` itself. A trajectory ends at its last.
        guidance: classifier-free guidance of the rollout.
        watch: name -> prompt of each trajectory, further predictions to store at the kept states.
        drive: context in which the model makes the trajectory.
        observe: context of the stored predictions; None: those of ``drive``, at no extra cost.
        batch: trajectories per forward pass (each counts twice), fewer of large pictures.
        ctx: counts forward passes.
        progress: called after every sampler step; may raise to stop.
    """
    kept: list[tuple[int, int, dict[str, Tensor]]] = []
    batch = min(batch, max(looked_at(noise.shape) // (1 if null is None else 2), 1))
    for start in range(0, len(noise), batch):
        rows = list(range(start, min(start + batch, len(noise))))
        kept += _roll(target, scheduler, noise, cond, null, picks, rows, guidance, watch or {}, drive, observe, ctx,
                      progress)  # fmt: skip
    kept.sort(key=lambda item: item[:2])

    def column(name: str) -> Tensor:
        return torch.stack([item[2][name] for item in kept])

    names = [name for name in kept[0][2] if name not in ("x", "inputs", "timestep")]
    return States(
        x=column("x"), inputs=column("inputs"), timestep=column("timestep"),
        index=torch.tensor([item[1] for item in kept]), row=torch.tensor([item[0] for item in kept]),
        predictions={name: column(name) for name in names},
    )  # fmt: skip


def _roll(
    target: Target, scheduler: Any, noise: Tensor, cond: Conditioning, null: Conditioning | None,
    picks: Sequence[Sequence[int]], rows: list[int], guidance: float, watch: Mapping[str, Conditioning],
    drive: Switch, observe: Switch | None, ctx: RunContext | None, progress: Callable[[], None],
) -> list[tuple[int, int, dict[str, Tensor]]]:  # fmt: skip
    """One batch of trajectories: (trajectory, step, named tensors) of every kept state."""
    steps = len(scheduler.timesteps)
    solver = type(scheduler).from_config(scheduler.config)
    solver.set_timesteps(steps, device=noise.device)
    kept: list[tuple[int, int, dict[str, Tensor]]] = []
    x = noise[rows]
    for index in range(max((max(picks[row], default=-1) for row in rows), default=-1) + 1):
        if type(solver).__name__ in _ONE_STEP:
            alive = [place for place, row in enumerate(rows) if picks[row] and max(picks[row]) >= index]
            rows, x = [rows[place] for place in alive], x[alive]
        stamp = solver.timesteps[index]
        inputs = solver.scale_model_input(x, stamp)
        time = stamp.expand(len(rows))
        empty = null if null is None or len(null.last) == 1 else null[rows]
        with drive():
            found = _predictions(target, inputs, time, empty, cond[rows], ctx)
        here = [place for place, row in enumerate(rows) if index in picks[row]]
        if here:
            there = [rows[place] for place in here]
            seen = {name: value[here] for name, value in found.items()}
            with (observe or drive)():
                if observe is not None:
                    blank = empty if empty is None or len(empty.last) == 1 else empty[here]
                    seen = _predictions(target, inputs[here], time[here], blank, cond[there], ctx)
                for name, other in watch.items():
                    seen[name] = ask(target, inputs[here], time[here], other[there], ctx)
            seen |= {"x": x[here], "inputs": inputs[here], "timestep": time[here]}
            kept += [(row, index, {name: value[n] for name, value in seen.items()}) for n, row in enumerate(there)]
        out = guided(found["null"], found["prompt"], guidance) if "null" in found else found["prompt"]
        x = solver.step(out, stamp, x).prev_sample
        progress()
    return kept


def _predictions(
    target: Target, inputs: Tensor, time: Tensor, null: Conditioning | None, cond: Conditioning, ctx: RunContext | None
) -> dict[str, Tensor]:
    """What a sampler step asks for: "null" and "prompt", or "prompt" alone."""
    if null is None:
        return {"prompt": ask(target, inputs, time, cond, ctx)}
    first, second = ask_pair(target, inputs, time, null, cond, ctx)
    return {"null": first, "prompt": second}


def repeat(cond: Conditioning, count: int) -> Conditioning:
    """One encoded prompt ``count`` times; several are returned as they are."""
    return cond if len(cond.last) == count else cond[[0] * count]


def picked(null: Conditioning, rows: Tensor) -> Conditioning:
    """What stands for no prompt in some trajectories, from the rows that `TextEncoder.blank` takes in turn."""
    return null[[row % len(null.last) for row in rows.tolist()]]


def join(parts: Sequence[Conditioning]) -> Conditioning:
    """Encoded prompts one after the other."""
    pooled = [part.pooled for part in parts if part.pooled is not None]
    return Conditioning(
        embeds=torch.cat([part.embeds for part in parts]),
        last=tuple(last for part in parts for last in part.last),
        pooled=torch.cat(pooled) if pooled else None,
        prompts=tuple(prompt for part in parts for prompt in part.prompts),
    )
