"""Pools of teacher states that a training method draws batches from, and the loss over them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from erase_plugins.engine.activations import at_once, pieced, recomputed
from erase_plugins.engine.adapters import Trainable
from erase_plugins.engine.context import RunContext
from erase_plugins.engine.distributed import processes, share
from erase_plugins.engine.kept_states import kept_states
from erase_plugins.engine.loop import shuffled
from erase_plugins.engine.trajectories import States, ask, draw_picks, harvest, join, start_noise
from erase_plugins.errors import RequestError
from erase_plugins.families.base import Conditioning, Target


class Part(NamedTuple):
    """One term of a loss: states, their prompts, what is wanted of each row, weight, and the error.

    ``error`` maps predictions (batch, channels, height, width) and ``wanted`` (batch, ...) to a scalar mean over rows.
    """

    states: States
    cond: Conditioning
    wanted: Tensor
    weight: float
    error: Callable[[Tensor, Tensor], Tensor] = functional.mse_loss


@dataclass(frozen=True)
class Pool:
    """Stored states with the prompt of each trajectory."""

    name: str
    states: States
    cond: Conditioning
    ctx: RunContext

    def batch(self, size: int, step: int) -> tuple[States, Conditioning]:
        """Batch number ``step``: shuffled passes over the pool."""
        rows = shuffled(self.ctx, f"pool {self.name}", len(self.states), size, step)
        states = self.states[rows]
        return states, self.cond[states.row.tolist()]


@dataclass(frozen=True)
class Rollout:
    """How trajectories are made.

    Attributes:
        target: the model.
        sampler, steps, guidance: of the rollout.
        harvest: states kept of a trajectory.
        ctx: randomness, counters, cancel.
        adapters: switched off for every teacher pass.
        total: training steps, for progress.
    """

    target: Target
    sampler: str
    steps: int
    guidance: float
    harvest: int
    ctx: RunContext
    adapters: Trainable
    total: int = 0

    def pool(
        self,
        name: str,
        prompts: Sequence[str],
        key: str,
        watch: Mapping[str, Sequence[str]] | None = None,
        *,
        cond: Conditioning | None = None,
        early: int | None = None,
        unguided: bool = False,
        kept: bool = False,
    ) -> Pool:
        """Harvested teacher trajectories, one per prompt.

        Args:
            name: names the pool, its randomness and its file in the work folder.
            prompts: guide the trajectories.
            key: identifies the run.
            watch: name -> prompts whose predictions are stored too.
            cond: embeddings that guide instead of the text encoder's.
            early: states are picked among the first ``early`` sampler steps, and trajectories end there; None: all.
            unguided: follow the prompt's own prediction; the empty prompt is neither asked nor stored.
            kept: share the states with other runs by way of the disk.
        """
        self.check(prompts)
        scheduler = self.target.scheduler(self.steps, self.sampler)
        noise = start_noise(self.target, scheduler, len(prompts), self.ctx.generator(f"noise {name}"))
        among = self.steps if early is None else min(early, self.steps)
        picks = draw_picks(len(prompts), among, self.harvest, self.ctx.generator(f"picks {name}"))
        cond = self.encoded(prompts) if cond is None else cond
        null = None if unguided else self.blank(len(prompts))
        watched = self._encoded(watch)

        def make() -> dict[str, Tensor]:
            with self.adapters.disabled():
                found = harvest(
                    self.target, scheduler, noise, cond, null, picks, guidance=self.guidance, watch=watched,
                    ctx=self.ctx, progress=self.progress,
                )  # fmt: skip
            return found.tensors()

        def shared() -> dict[str, Tensor]:
            conds = {**{f"watch {word}": other for word, other in watched.items()}, "prompt": cond, "null": null}
            return kept_states(self, scheduler, noise, conds, picks, make)

        tensors = self.ctx.stash(f"states-{name}", key, shared if kept else make)
        states = States.of({name: value.to(self.target.device) for name, value in tensors.items()})
        return Pool(name, states, cond, self.ctx)

    def fresh(
        self, prompts: Sequence[str], size: int, step: int, watch: Mapping[str, Sequence[str]] | None = None
    ) -> Pool:
        """``size`` states, each from its own trajectory of the student, stopped at a random step.

        Predictions are the teacher's, and the prompts are those of the teacher's text encoder throughout: a student
        whose text encoder is trained walks the teacher's trajectories, as the official AdvUnlearn samples them.
        """
        generator = self.ctx.generator(f"fresh {step}")
        chosen = torch.randint(len(prompts), (size,), generator=generator).tolist()
        stops = torch.randint(self.steps, (size,), generator=generator).tolist()
        scheduler = self.target.scheduler(self.steps, self.sampler)
        noise = start_noise(self.target, scheduler, size, generator)
        cond = self.encoded([prompts[place] for place in chosen])
        picked = {name: [extra[place] for place in chosen] for name, extra in (watch or {}).items()}
        states = harvest(
            self.target, scheduler, noise, cond, self.blank(size), [[stop] for stop in stops],
            guidance=self.guidance, watch=self._encoded(picked), drive=nullcontext, observe=self.adapters.disabled,
            ctx=self.ctx, progress=self.progress,
        )  # fmt: skip
        return Pool(f"fresh {step}", states, cond, self.ctx)

    @torch.no_grad()
    def teacher(self, states: States, cond: Conditioning) -> Tensor:
        """The teacher's predictions for other prompts at given states."""
        with self.adapters.disabled():
            return ask(self.target, states.inputs, states.timestep, cond, self.ctx)

    def encoded(self, prompts: Sequence[str]) -> Conditioning:
        """Prompts as the unedited text encoder gives them, also in the middle of a training."""
        with self.adapters.disabled():
            return self.target.encode(prompts)

    def blank(self, count: int) -> Conditioning:
        """What the unedited text encoder gives for no prompt, see `TextEncoder.blank`."""
        with self.adapters.disabled():
            return self.target.blank(count)

    def _encoded(self, watch: Mapping[str, Sequence[str]] | None) -> dict[str, Conditioning]:
        return {name: self.encoded(prompts) for name, prompts in (watch or {}).items()}

    def check(self, prompts: Sequence[str]) -> None:
        """Refuses prompts without content tokens and tells about truncated ones.

        Raises:
            RequestError: names the prompt.
        """
        cond = self.target.encode(prompts)
        rows = cond.parts[0].stop - cond.parts[0].start if cond.parts else self.target.info.tokens
        longest = rows - 2
        for place, (prompt, last) in enumerate(zip(prompts, cond.last, strict=True)):
            if prompt and cond.is_empty(place):
                raise RequestError(f"'{prompt}' has no content tokens for this text encoder; name the concept in words")
            if last >= longest:
                self.ctx.note(f"'{prompt[:60]}' fills all {longest} tokens of the text encoder; the rest is cut off")

    def progress(self) -> None:
        """Reports that a rollout goes on, and stops where asked."""
        self.ctx.step(0, self.total, forwards=self.ctx.numbers.get("unet_forwards", 0.0))


def mean_squares(
    target: Target,
    terms: Sequence[Part | tuple[States, Conditioning, Tensor, float]],
    ctx: RunContext,
    adapters: Trainable | None = None,
) -> Tensor:
    """Sum over parts of weight times mean squared error (or the part's own error), one forward pass for all.

    Where what all samples keep for their way back would fill a usual graphics card, they go through the denoiser some
    at a time, and each time again on the way back (`engine.activations`).

    On several processes each takes its share of every part, scaled so that the mean over the processes is the sum.

    Args:
        target: the student.
        terms: see `Part`; wanted predictions have the shape of the latents unless the part has an error of its own.
        ctx: counts forward passes.
        adapters: what is trained, if a pass depends on more of it than its values.
    """
    parts = [Part(*term) for term in terms]
    if (count := processes()) > 1:
        parts = [_shared(part, count) for part in parts]
    inputs = torch.cat([part.states.inputs for part in parts])
    times = torch.cat([part.states.timestep for part in parts])
    out = in_pieces(target, inputs, times, join([part.cond for part in parts]), ctx, adapters)
    total = out.new_zeros(())
    for piece, part in zip(out.split([len(part.states) for part in parts]), parts, strict=True):
        total = total + part.weight * part.error(piece, part.wanted)
    return total


def in_pieces(
    target: Target, inputs: Tensor, times: Tensor, cond: Conditioning, ctx: RunContext, adapters: Trainable | None
) -> Tensor:
    """`ask` with gradients, of as many samples at once as `engine.activations.at_once` says."""
    count, most = len(inputs), at_once(target, ctx.precision)
    state = None if adapters is None else adapters.now()
    # a pass whose state is gone on the way back brings it along
    if not torch.is_grad_enabled() or (count <= most and (state is None or not recomputed(target))):
        return ask(target, inputs, times, cond, ctx)

    def piece(rows: list[int]) -> Tensor:
        if adapters is not None:
            adapters.recall(state, rows)
        return ask(target, inputs[rows], times[rows], cond[rows], ctx)

    out = pieced(piece, count, most)
    if adapters is not None:
        adapters.recall(state, None)
    return out


def _shared(part: Part, count: int) -> Part:
    """This process's rows of a part; the weight makes up for unequal shares."""
    size = len(part.states)
    rows = torch.arange(size)[share(size)]
    weight = part.weight * count * len(rows) / size
    return Part(part.states[rows], part.cond[rows.tolist()], part.wanted[rows], weight, part.error)
