"""What the closed form cannot take out of a LoRA is trained out of its "down" factors, on the model's own states.

Layers that read no text answer to the look of a half-drawn picture, so no word's rows are there to project off. Here
the whole LoRA is taught two things at once, on states that base and LoRA draw for prompts: where the concept is named
to predict what the base predicts, and where anything else is named, or nothing, what the LoRA predicted as it was. No
picture of anybody is needed. "Up" factors, rank and scale stay.

Two things decide what the rest of the LoRA loses. An error counts as a share of what the LoRA changes at that noise
level: what a picture shows is decided where there is most noise, and there a LoRA changes the prediction least (on
pocket a fifth of what it changes at the end), so that errors over the size of the prediction would hardly count where
they do most harm. And steps are counted in directions that kept prompts hardly use (`input_whitening`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from erase_plugins.artifacts.edit import Delta, LowRank
from erase_plugins.engine.adapters import LoraSlot, Trainable
from erase_plugins.engine.trajectories import ask, harvest, join, start_noise
from erase_plugins.families.capabilities import DENOISER
from erase_plugins.workflow.input_whitening import InputGrams, WhitenedFactor

if TYPE_CHECKING:
    from erase_plugins.families.base import Target
    from erase_plugins.families.capabilities import Conditioning

    #: the model in some state, for a with-block
    Switch = Callable[[], AbstractContextManager[object]]

#: (component, key of an edit)
Place = tuple[str, str]
#: states in one forward pass without gradient
_CHUNK = 32


@dataclass(frozen=True)
class Schedule:
    """How long and on what is trained.

    Attributes:
        steps: of training.
        batch: states of a step: where the concept is named, where it is not, and those with the empty prompt.
        rate: of Adam at the start, in units of what a factor answers; falls to zero as a cosine.
        keep: how much more an error counts where the LoRA has to stay.
        prompts: that name the concept, drawn by the base, as many by the LoRA, and twice as many that do not.
        asked: share of the latter that names what was asked to be kept; the rest are common words.
        fillers: common words that stand around a word in prompts.
        sampler: steps of a trajectory, all of which are states to train on.
        guidance: of drawing them.
        ridge: of whitening.
        listened: states of which modules' inputs are counted for it.
    """

    steps: int = 100
    batch: tuple[int, int, int] = (5, 7, 4)
    rate: float = 0.03
    keep: float = 4.0
    prompts: int = 32
    asked: float = 0.75
    fillers: int = 96
    sampler: int = 8
    guidance: float = 4.0
    ridge: float = 0.01
    listened: int = 96

    def evaluations(self) -> int:
        """Predictions for one state each that all of it takes; a training step with its gradient counts three times."""
        drawn = 4 * self.prompts * self.sampler  # half where the concept is named, half where it is not
        watched = 2 * min(self.listened, drawn // 2)
        return 2 * drawn + drawn + watched + 3 * self.steps * sum(self.batch)


@dataclass(frozen=True)
class _Taught:
    """What is to be predicted at states.

    Attributes:
        inputs, times: the states (n, channels, height, width) and (n,).
        cond: prompts, as the new LoRA's text encoders read them.
        prompt: of each state.
        wanted: prediction (n, channels, height, width).
        sizes: mean square of what the LoRA changes there (n,), a mean over the states of one time.
    """

    inputs: Tensor
    times: Tensor
    cond: Conditioning
    prompt: Tensor
    wanted: Tensor
    sizes: Tensor

    def ask(self, target: Target, rows: Tensor) -> Tensor:
        """Predictions of the model as it is, without gradient."""
        parts = [
            ask(target, self.inputs[part], self.times[part], self.cond[self.prompt[part].tolist()], None)
            for part in rows.split(_CHUNK)
        ]
        return torch.cat(parts)


def taught_off(
    target: Target, old: Mapping[str, Mapping[str, Delta]], new: Mapping[Place, Tensor], phrases: Sequence[str],
    keep: Sequence[str], seed: int, lora: Switch, solved: Switch, schedule: Schedule,
) -> dict[Place, Tensor]:  # fmt: skip
    """`unlearn` for a LoRA after its closed form, with prompts by the usual frames and common words.

    Args:
        target: the base, without the LoRA.
        old: the LoRA.
        new: "down" factors that the closed form found.
        phrases: the concept and what means the same.
        keep: words or prompts that must stay.
        seed: of prompts, noise and order.
        lora: puts the LoRA on the target for a with-block.
        solved: the same with the factors of the closed form.
        schedule: see there.
    """
    from erase_plugins.workflow.lora_projection import Weights, concept_prompts, kept_prompts

    draw = torch.Generator().manual_seed(seed)
    framed = [text for text, _ in concept_prompts(phrases, schedule.fillers, target)]
    named = [_some(framed, schedule.prompts, draw) for _ in range(2)]
    wanted = [text for text, _ in concept_prompts(keep, schedule.fillers, target)] if keep else []
    asked = _some(wanted, round(2 * schedule.prompts * schedule.asked), draw)
    others = _some(kept_prompts(phrases, Weights(), target), 2 * schedule.prompts - len(asked), draw)
    return unlearn(target, old, new, (named[0], named[1], [*asked, *others]), (lora, solved), schedule, seed)


def _some(items: Sequence[str], count: int, draw: torch.Generator) -> list[str]:
    """``count`` of them in random order, several times where there are fewer."""
    if not items:
        return []
    order = torch.randperm(len(items), generator=draw).tolist()
    return [items[order[place % len(order)]] for place in range(count)]


def unlearn(
    target: Target, old: Mapping[str, Mapping[str, Delta]], new: Mapping[Place, Tensor],
    prompts: tuple[Sequence[str], Sequence[str], Sequence[str]], switches: tuple[Switch, Switch],
    schedule: Schedule, seed: int,
) -> dict[Place, Tensor]:  # fmt: skip
    """New "down" factors (rank, in, ...) of all modules of the denoiser.

    Args:
        target: the base, without the LoRA.
        old: the LoRA.
        new: "down" factors to begin from, where they are others.
        prompts: with the concept, for the base to draw; with it, for the LoRA to draw; without it, where the LoRA
            shall do what it did.
        switches: put the LoRA as it was, and with the new factors, on the target.
        schedule: see there.
        seed: of noise and order.
    """
    generator = torch.Generator().manual_seed(seed)
    lora, solved = switches
    drawn = [
        _taught(target, texts, drawer, teacher, lora, solved, schedule, generator)
        for texts, drawer, teacher in zip(
            prompts, (nullcontext, lora, lora), (nullcontext, nullcontext, lora), strict=True
        )
    ]
    gone = _joined([drawn[0][0], drawn[1][0]])
    stay, empty = drawn[2]
    slots = _slots(target, old, new)
    grams = InputGrams()
    rows = torch.randperm(len(stay.times), generator=generator)[: schedule.listened]
    with torch.no_grad(), lora(), grams.listening({place: target.module(slot.ref) for place, slot in slots.items()}):
        for part in (stay, empty):
            part.ask(target, rows)
    factors = [
        WhitenedFactor(slot, grams.mean(place), schedule.ridge, _down(old, place)) for place, slot in slots.items()
    ]
    with Trainable(target, list(slots.values())):
        _train(target, factors, (gone, stay, empty), schedule, generator)
    return {place: slot.A.detach().double().cpu() for place, slot in slots.items()}


def _down(deltas: Mapping[str, Mapping[str, Delta]], place: Place) -> Tensor:
    delta = deltas[place[0]][place[1]]
    assert isinstance(delta, LowRank)  # of a plain LoRA, which was checked
    return delta.A


def _slots(
    target: Target, old: Mapping[str, Mapping[str, Delta]], new: Mapping[Place, Tensor]
) -> dict[Place, LoraSlot]:
    refs = {(ref.component, ref.weight): ref for ref in target.info.refs}
    found = {}
    for component in target.info.components(DENOISER):
        for key, delta in old.get(component, {}).items():
            place, ref = (component, key), refs[component, key]
            assert isinstance(delta, LowRank)  # of a plain LoRA, which was checked
            slot = LoraSlot(ref, target.module(ref), delta.A.shape[0], 1.0, None)  # type: ignore[arg-type]
            device = slot.B.device
            # a copy: the LoRA in memory is measured afterwards
            slot.A = nn.Parameter(new.get(place, delta.A).detach().float().clone().to(device))
            slot.B = nn.Parameter(delta.B.float().to(device), requires_grad=False)
            found[place] = slot
    return found


@torch.no_grad()
def _taught(
    target: Target, prompts: Sequence[str], drawer: Switch, teacher: Switch, lora: Switch, solved: Switch,
    schedule: Schedule, generator: torch.Generator,
) -> tuple[_Taught, _Taught]:  # fmt: skip
    """States that ``drawer`` draws for the prompts, with the teacher's predictions there; without LoRA is the base.

    The second has the same states with the empty prompt and what the drawer predicted there.
    """
    sampler = target.scheduler(schedule.sampler)
    noise = start_noise(target, sampler, len(prompts), generator)
    picks = [list(range(schedule.sampler))] * len(prompts)
    with drawer():
        cond, null = _encoded(target, prompts), _encoded(target, [""])
        states = harvest(target, sampler, noise, cond, null, picks, guidance=schedule.guidance, batch=_CHUNK)
    made = {drawer: states.predictions["prompt"]}
    rows = torch.arange(len(states))
    blank = _Taught(states.inputs, states.timestep, cond, states.row, noise, noise)
    for other in {lora, nullcontext, teacher} - {drawer}:
        with other():
            made[other] = replace(blank, cond=_encoded(target, prompts)).ask(target, rows)
    sizes = _by_time((made[lora] - made[nullcontext]).square().flatten(1).mean(1), states.timestep)
    with solved():
        read, empty = _encoded(target, prompts), _encoded(target, [""])
    named = _Taught(states.inputs, states.timestep, read, states.row, made[teacher], sizes)
    # guidance g adds g times the error with the prompt and g - 1 times that without
    scale = (schedule.guidance / max(schedule.guidance - 1, 1e-3)) ** 2
    silent = replace(
        named, cond=empty, prompt=torch.zeros_like(states.row), wanted=states.predictions["null"], sizes=scale * sizes
    )
    return named, silent


def _by_time(values: Tensor, times: Tensor) -> Tensor:
    """Means over the states of one time, at least a thousandth of the largest: a LoRA can do nothing at some times."""
    _, place = times.unique(return_inverse=True)
    count = int(place.max()) + 1
    sums = torch.zeros(count, device=values.device).index_add(0, place, values)
    means = sums / torch.bincount(place, minlength=count)
    return means.clamp_min(max(1e-3 * float(means.max()), 1e-12))[place]


def _encoded(target: Target, prompts: Sequence[str]) -> Conditioning:
    """By the text encoders as they are now."""
    return target.encode_live(target.tokens(list(prompts)))


def _joined(parts: Sequence[_Taught]) -> _Taught:
    before = [0, *(len(part.cond.last) for part in parts)]
    prompt = torch.cat([part.prompt + sum(before[: place + 1]) for place, part in enumerate(parts)])
    inputs, times, wanted, sizes = (
        torch.cat([getattr(part, name) for part in parts]) for name in ("inputs", "times", "wanted", "sizes")
    )
    return _Taught(inputs, times, join([part.cond for part in parts]), prompt, wanted, sizes)


def _train(
    target: Target, factors: Sequence[WhitenedFactor], taught: tuple[_Taught, _Taught, _Taught], schedule: Schedule,
    generator: torch.Generator,
) -> None:  # fmt: skip
    optimizer = torch.optim.Adam([{"params": [item.M], "lr": schedule.rate * item.unit} for item in factors])
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, schedule.steps)
    weights = (1.0, schedule.keep, schedule.keep)
    for _ in range(schedule.steps):
        for item in factors:
            item.refresh()
        parts = []
        for part, count, weight in zip(taught, schedule.batch, weights, strict=True):
            rows = torch.randint(len(part.times), (count,), generator=generator)
            cond = part.cond[part.prompt[rows].tolist()]
            parts.append(
                _Taught(part.inputs[rows], part.times[rows], cond, torch.arange(count), part.wanted[rows],
                        part.sizes[rows] / weight)
            )  # fmt: skip
        now = _joined(parts)
        found = ask(target, now.inputs, now.times, now.cond, None)
        error = (found - now.wanted).square().flatten(1).mean(1) / now.sizes
        optimizer.zero_grad()
        error.mean().backward()
        optimizer.step()
        falling.step()
    for item in factors:
        item.refresh()
