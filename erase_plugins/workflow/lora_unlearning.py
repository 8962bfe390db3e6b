"""What the closed form cannot take out of a LoRA is trained out of its "down" factors, on the model's own states.

Layers that read no text answer to the look of a half-drawn picture, so no word's rows are there to project off. Here
the whole LoRA is taught two things at once, on states that base and LoRA draw: where the concept is named to predict
what the base predicts, and where anything else is named, or nothing, what the LoRA predicted as it was. No picture of
anybody is needed. "Up" factors, rank and scale stay.

Four things decide what the rest of the LoRA loses. An error counts as a share of what the LoRA changes at that noise
level: what a picture shows is decided where there is most noise, and there a LoRA changes the prediction least (on
pocket a fifth of what it changes at the end), so that errors over the size of the prediction would hardly count where
they do most harm. Every step has prompts of its own, each asked of the teacher once, so that nothing is learnt by
heart. What is to be kept stands in the same prompts as the concept of that step, so that the words alone tell them
apart (`lora_prompts`). And training begins near its end: from the closed forms, on prompts for layers that read text
and on what they read at the states that the teacher is asked at for others (`lora_features`). How hard these press is
settled for every LoRA: of several weights the one from which the training has least left to do. Alone, a closed form
has to press hard, since nothing comes after it; before a training that costs the rest of the LoRA what the training
need not take. How steps are taken stands in `lora_whitening`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn

from erase_plugins.artifacts.edit import Delta, LowRank
from erase_plugins.engine.adapters import LoraSlot, Trainable
from erase_plugins.engine.trajectories import ask, harvest, join, start_noise
from erase_plugins.families.capabilities import DENOISER
from erase_plugins.workflow.lora_features import Inputs, taken_off
from erase_plugins.workflow.lora_prompts import Beside, frames_for, kept_prompts
from erase_plugins.workflow.lora_states import CHUNK, Lessons, States, asked, by_time, encoded, joined
from erase_plugins.workflow.lora_whitening import White, steps_on

if TYPE_CHECKING:
    from erase_plugins.families.base import Target

    #: the model in some state, for a with-block
    Switch = Callable[[], AbstractContextManager[object]]

#: (component, key of an edit)
Place = tuple[str, str]
_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Schedule:
    """How long and on what is trained.

    Attributes:
        steps: of training.
        batch: states of a step: where the concept is named, where it is not, and those with the empty prompt.
        rate: of Adam at the start, in units of the mean size of a factor's values; falls to zero as a cosine.
        keep: how much more an error counts where the LoRA has to stay.
        prompts: whose trajectories the states are from: that name the concept, drawn by the base and by the LoRA, and
            as many that do not, drawn by the LoRA.
        surroundings: prompts in which other words stand around the concept or what is to be kept, see `lora_prompts`.
        sampler: steps of a trajectory, all of which are states to train on.
        guidance: of drawing them.
        weights: of a row of the concept in the closed forms before the training, in units of ``1 / keep``, which is
            what an error where the concept is named counts in the training; the best one is taken.
        probed: steps on whose states and prompts that is settled.
    """

    steps: int = 200
    batch: tuple[int, int, int] = (5, 7, 4)
    rate: float = 0.02
    keep: float = 3.0
    prompts: int = 48
    surroundings: int = 192
    sampler: int = 8
    guidance: float = 4.0
    weights: tuple[float, ...] = (1 / 16, 1 / 4, 1.0, 4.0)
    probed: int = 4

    @property
    def tries(self) -> tuple[float, ...]:
        """The weights themselves, against a kept row's 1."""
        return tuple(weight / self.keep for weight in self.weights)

    def evaluations(self) -> int:
        """Predictions for one state each that all of it takes; a training step with its gradient counts three times."""
        drawn, taught = 3 * self.prompts * self.sampler, self.steps * sum(self.batch)
        probed = len(self.weights) * min(self.probed, self.steps) * sum(self.batch)
        return 2 * drawn + drawn + taught + probed + 3 * taught


def taught_off(
    target: Target, old: Mapping[str, Mapping[str, Delta]], new: Sequence[Mapping[Place, Tensor]],
    phrases: Sequence[str], keep: Sequence[str], words: Sequence[str], seed: int, lora: Switch, solved: Switch,
    schedule: Schedule,
) -> dict[Place, Tensor]:  # fmt: skip
    """`unlearn` for a LoRA after its closed form, with prompts of `lora_prompts`.

    Args:
        target: the base, without the LoRA.
        old: the LoRA.
        new: "down" factors that the closed form found, for each of ``schedule.tries``.
        phrases: the concept and what means the same.
        keep: words or prompts that must stay.
        words: that stand around them.
        seed: of prompts, noise and order.
        lora: puts the LoRA on the target for a with-block.
        solved: the same with the text encoders as they will be, which training leaves alone.
        schedule: see there.
    """
    draw = torch.Generator().manual_seed(seed)
    frames = frames_for(words, schedule.surroundings)
    first, (named, kept, _) = schedule.prompts, schedule.batch
    pairs = _some([(frame, phrase) for phrase in phrases for frame in frames], first + schedule.steps * named, draw)
    common = _some(kept_prompts(target, phrases), first + schedule.steps * kept, draw)
    beside, slots = Beside(keep, common, named / kept), [frame for frame, _ in pairs]
    stay = beside.of(slots[:first], first)
    for start in range(first, len(slots), named):
        stay += beside.of(slots[start : start + named], kept)
    texts = [frame.format(phrase) for frame, phrase in pairs]
    return unlearn(target, old, new, (texts, stay), (lora, solved), schedule, seed)


def _some(items: Sequence[_Item], count: int, draw: torch.Generator) -> list[_Item]:
    """``count`` of them in random order, several times where there are fewer."""
    if not items:
        return []
    order = torch.randperm(len(items), generator=draw).tolist()
    return [items[order[place % len(order)]] for place in range(count)]


def unlearn(
    target: Target, old: Mapping[str, Mapping[str, Delta]], new: Sequence[Mapping[Place, Tensor]],
    prompts: tuple[Sequence[str], Sequence[str]], switches: tuple[Switch, Switch], schedule: Schedule, seed: int,
) -> dict[Place, Tensor]:  # fmt: skip
    """New "down" factors (rank, in, ...) of all modules of the denoiser.

    Args:
        target: the base, without the LoRA.
        old: the LoRA.
        new: "down" factors to begin from, where they are others, for each of ``schedule.tries``.
        prompts: with the concept, and without it, where the LoRA shall do what it did: first those whose trajectories
            are drawn, then one for every state of a training step.
        switches: put the LoRA as it was, and with its text encoders as they will be, on the target.
        schedule: see there.
        seed: of noise and order.
    """
    generator = torch.Generator().manual_seed(seed)
    lora, solved = switches
    count, guidance = schedule.prompts, schedule.guidance
    named, kept = (list(texts) for texts in prompts)
    by_base = _drawn(target, named[:count], nullcontext, lora, schedule, generator)
    by_lora = _drawn(target, named[:count], lora, nullcontext, schedule, generator)
    gone, stay = joined([by_base, by_lora]), _drawn(target, kept[:count], lora, nullcontext, schedule, generator)
    # guidance g adds g times the error with the prompt and g - 1 times that without
    silent = (guidance / max(guidance - 1, 1e-3)) ** 2
    empty = [""] * (schedule.steps * schedule.batch[2])
    slots = _slots(target, old)
    reads, stays = (Inputs({place: slot.module for place, slot in slots.items()}, generator) for _ in range(2))
    with reads.listening(len(named) - count):
        off = _lessons(target, gone, named[count:], nullcontext, solved, 1.0, generator)
    with stays.listening(len(kept) - count + len(empty)):
        same = _lessons(target, stay, kept[count:], lora, solved, 1 / schedule.keep, generator)
        idle = _lessons(target, stay, empty, lora, solved, silent / schedule.keep, generator)
    lessons = (off, same, idle)
    rows = {place: _fitting(slot.A, reads.rows(place), stays.rows(place)) for place, slot in slots.items()}
    textless = {place: rows[place] for place in slots if place not in new[0]}
    starts = [
        {**_solved(old, textless, weight), **factors} for weight, factors in zip(schedule.tries, new, strict=True)
    ]
    factors = [(slot.A, _white(slot.A, rows[place])) for place, slot in slots.items()]
    with Trainable(target, list(slots.values())):
        _begin(target, slots, starts, lessons, schedule)
        steps_on(factors, schedule.steps, schedule.rate, lambda step: _error(target, lessons, step, schedule))
    return {place: slot.A.detach().cpu().double() for place, slot in slots.items()}


@torch.no_grad()
def _begin(
    target: Target, slots: Mapping[Place, LoraSlot], starts: Sequence[Mapping[Place, Tensor]],
    lessons: Sequence[Lessons], schedule: Schedule,
) -> None:  # fmt: skip
    """Sets the factors to those of the starts from which the lessons have least left to teach."""

    def take(start: Mapping[Place, Tensor]) -> None:
        for place in start.keys() & slots.keys():
            slots[place].A.copy_(start[place])

    def left(start: Mapping[Place, Tensor]) -> float:
        take(start)
        steps = range(min(schedule.probed, schedule.steps))
        return sum(float(_error(target, lessons, step, schedule)) for step in steps)

    take(min(starts, key=left))


def _fitting(factor: Tensor, *read: Tensor | None) -> list[Tensor]:
    """Of the rows (n, in) that a module read, those as wide as its factor; none where it was not called."""
    return [rows for rows in read if rows is not None and rows.shape[1] == factor.shape[1]]


def _solved(
    old: Mapping[str, Mapping[str, Delta]], rows: Mapping[Place, Sequence[Tensor]], erase: float
) -> dict[Place, Tensor]:
    """ "Down" factors by the closed form on what modules read with the concept and without it."""
    found = {}
    for place, read in rows.items():
        delta = old[place[0]][place[1]]
        if isinstance(delta, LowRank) and len(read) == 2:
            named, kept = read
            found[place] = taken_off(delta.A, named, kept, erase)
    return found


def _white(factor: Tensor, read: Sequence[Tensor]) -> White | None:
    """From the rows that are numbers: a damaged LoRA is refused later."""
    finite = [rows for rows in read if rows.isfinite().all()]
    return White.of(torch.cat(finite), factor.device) if finite else None


def _slots(target: Target, old: Mapping[str, Mapping[str, Delta]]) -> dict[Place, LoraSlot]:
    refs = {(ref.component, ref.weight): ref for ref in target.info.refs}
    found = {}
    for component in target.info.components(DENOISER):
        for key, delta in old.get(component, {}).items():
            ref = refs[component, key]
            assert isinstance(delta, LowRank)  # of a plain LoRA, which was checked
            slot = LoraSlot(ref, target.module(ref), delta.A.shape[0], 1.0, None)  # type: ignore[arg-type]
            device = slot.B.device
            # a copy: the LoRA in memory is measured afterwards
            slot.A = nn.Parameter(delta.A.detach().float().clone().to(device))
            slot.B = nn.Parameter(delta.B.float().to(device), requires_grad=False)
            found[component, key] = slot
    return found


@torch.no_grad()
def _drawn(
    target: Target, prompts: Sequence[str], drawer: Switch, other: Switch, schedule: Schedule,
    generator: torch.Generator,
) -> States:  # fmt: skip
    """States that ``drawer`` draws for the prompts; one of both switches is the LoRA, the other one the base."""
    sampler = target.scheduler(schedule.sampler)
    noise = start_noise(target, sampler, len(prompts), generator)
    picks = [list(range(schedule.sampler))] * len(prompts)
    with drawer():
        cond, null = encoded(target, prompts), encoded(target, [""])
        states = harvest(target, sampler, noise, cond, null, picks, guidance=schedule.guidance, batch=CHUNK)
    with other():
        there = asked(target, states.inputs, states.timestep, encoded(target, prompts)[states.row.tolist()])
    changed = (states.predictions["prompt"] - there).square().flatten(1).mean(1)
    return States(states.inputs, states.timestep, by_time(changed, states.timestep))


@torch.no_grad()
def _lessons(
    target: Target, states: States, prompts: Sequence[str], teacher: Switch, solved: Switch, unit: float,
    generator: torch.Generator,
) -> Lessons:  # fmt: skip
    """A random state for every prompt, with what the teacher predicts there; errors count in ``unit`` of its size."""
    rows = torch.randint(len(states.times), (len(prompts),), generator=generator).to(states.times.device)
    inputs, times = states.inputs[rows], states.times[rows]
    with teacher():
        wanted = asked(target, inputs, times, encoded(target, prompts))
    with solved():
        return Lessons(inputs, times, unit * states.sizes[rows], encoded(target, prompts), wanted)


def _error(target: Target, lessons: Sequence[Lessons], step: int, schedule: Schedule) -> Tensor:
    """What is minimised, on the lessons of one step."""
    parts = [part[step * count : (step + 1) * count] for part, count in zip(lessons, schedule.batch, strict=True)]
    now, cond = joined(parts), join([part.cond for part in parts])
    error = ask(target, now.inputs, now.times, cond, None) - torch.cat([part.wanted for part in parts])
    return (error.square().flatten(1).mean(1) / now.sizes).mean()
