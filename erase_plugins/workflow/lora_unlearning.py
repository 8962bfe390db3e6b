"""What the closed form cannot take out of a LoRA is trained out of its "down" factors, on the model's own states.

Layers that read no text answer to the look of a half-drawn picture, so no word's rows are there to project off. Here
the whole LoRA is taught two things at once, on states that base and LoRA draw for prompts: where the concept is named
to predict what the base predicts, and where anything else is named, or nothing, what the LoRA predicted as it was. No
picture of anybody is needed. "Up" factors, rank and scale stay.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from erase_plugins.artifacts.edit import Delta, LowRank
from erase_plugins.engine.adapters import LoraSlot, Trainable
from erase_plugins.engine.trajectories import ask, draw_picks, harvest, join, start_noise
from erase_plugins.families.capabilities import DENOISER

if TYPE_CHECKING:
    from erase_plugins.families.base import Target
    from erase_plugins.families.capabilities import Conditioning

    #: the model with the LoRA as it was, for a with-block
    Switch = Callable[[], AbstractContextManager[object]]

#: of a batch: the concept, what stays, the empty prompt
_SHARES = (3 / 8, 3 / 8, 1 / 4)
#: (component, key of an edit)
Place = tuple[str, str]


@dataclass(frozen=True)
class Schedule:
    """How long and on what is trained.

    Attributes:
        steps: of training.
        batch: states in a step: three eighths of the concept, as many of what stays, the rest with the empty prompt,
            whose errors guidance makes larger.
        rate: of Adam at the start, in units of the mean size of a factor's values; falls to zero as a cosine.
        prompts: that name the concept, and as many that do not.
        states: kept of each prompt's trajectory.
        sampler: steps of a trajectory.
        guidance: of drawing them.
    """

    steps: int = 150
    batch: int = 16
    rate: float = 0.03
    prompts: int = 32
    states: int = 4
    sampler: int = 12
    guidance: float = 4.0


@dataclass(frozen=True)
class _Taught:
    """States (n, channels, height, width) with their times, prompts and what is to be predicted there."""

    inputs: Tensor
    times: Tensor
    cond: Conditioning
    wanted: Tensor

    def __getitem__(self, rows: list[int]) -> _Taught:
        return _Taught(self.inputs[rows], self.times[rows], self.cond[rows], self.wanted[rows])


def taught_off(
    target: Target, old: Mapping[str, Mapping[str, Delta]], new: Mapping[Place, Tensor], phrases: Sequence[str],
    keep: Sequence[str], steps: int, seed: int, lora: Switch,
) -> dict[Place, Tensor]:  # fmt: skip
    """`unlearn` for a LoRA after its closed form, with prompts by the usual frames and common words.

    Args:
        target: the base, without the LoRA.
        old: the LoRA.
        new: "down" factors that the closed form found.
        phrases: the concept and what means the same.
        keep: words or prompts that must stay.
        steps: of training.
        seed: of prompts, noise and order.
        lora: puts it on the target for a with-block.
    """
    from erase_plugins.workflow.lora_projection import Weights, concept_prompts, kept_prompts

    def solved(component: str, key: str, delta: Delta) -> Delta:
        found = new.get((component, key))
        return delta if found is None or not isinstance(delta, LowRank) else LowRank(found.float(), delta.B)

    schedule, weights = Schedule(steps=steps), Weights()
    deltas = {
        component: {key: solved(component, key, delta) for key, delta in group.items()}
        for component, group in old.items()
    }
    draw = torch.Generator().manual_seed(seed)
    named = _some([text for text, _ in concept_prompts(phrases, weights.fillers, target)], schedule.prompts, draw)
    framed = [text for text, _ in concept_prompts(keep, weights.fillers, target)] if keep else []
    asked = _some(framed, 3 * schedule.prompts // 4, draw)
    others = _some(kept_prompts(phrases, weights, target), schedule.prompts - len(asked), draw)
    return unlearn(target, deltas, named, [*asked, *others], lora, schedule, seed)


def _some(items: Sequence[str], count: int, draw: torch.Generator) -> list[str]:
    """``count`` of them in random order, several times where there are fewer."""
    if not items:
        return []
    order = torch.randperm(len(items), generator=draw).tolist()
    return [items[order[place % len(order)]] for place in range(count)]


def unlearn(
    target: Target, deltas: Mapping[str, Mapping[str, Delta]], named: Sequence[str], kept: Sequence[str],
    lora: Switch, schedule: Schedule, seed: int, progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[Place, Tensor]:  # fmt: skip
    """New "down" factors (rank, in, ...) of all modules of the denoiser.

    Args:
        target: the base, without the LoRA.
        deltas: the LoRA to begin from, which may be cleaned in closed form.
        named: prompts with the concept.
        kept: prompts without it, where the LoRA shall do what it did.
        lora: puts the LoRA as it was on the target.
        schedule: see there.
        seed: of noise and order.
        progress: called after every step.
    """
    generator = torch.Generator().manual_seed(seed)
    gone, _ = _taught(target, named, None, [None, lora], schedule, generator)
    stay, empty = _taught(target, kept, lora, [lora], schedule, generator)
    slots = _slots(target, deltas)
    with Trainable(target, list(slots.values())):
        _train(target, [slot.A for slot in slots.values()], (gone, stay, empty), schedule, generator, progress)
    return {place: slot.A.detach().double().cpu() for place, slot in slots.items()}


def _slots(target: Target, deltas: Mapping[str, Mapping[str, Delta]]) -> dict[Place, LoraSlot]:
    refs = {(ref.component, ref.weight): ref for ref in target.info.refs}
    parts = target.info.components(DENOISER)
    found = {}
    for component in parts:
        for key, delta in deltas.get(component, {}).items():
            ref = refs[component, key]
            assert isinstance(delta, LowRank)  # of a plain LoRA, which was checked
            slot = LoraSlot(ref, target.module(ref), delta.A.shape[0], 1.0, None)  # type: ignore[arg-type]
            device = slot.B.device
            slot.A = nn.Parameter(delta.A.detach().float().clone().to(device))
            slot.B = nn.Parameter(delta.B.float().to(device), requires_grad=False)
            found[component, key] = slot
    return found


@torch.no_grad()
def _taught(
    target: Target, prompts: Sequence[str], teacher: Switch | None, drawn_by: Sequence[Switch | None],
    schedule: Schedule, generator: torch.Generator,
) -> tuple[_Taught, _Taught]:  # fmt: skip
    """States that each of ``drawn_by`` (None: the base) draws for the prompts, and what the teacher predicts there.

    The second has the same states with the empty prompt.
    """
    parts: tuple[list[_Taught], list[_Taught]] = ([], [])
    for drawer in drawn_by:
        sampler = target.scheduler(schedule.sampler)
        noise = start_noise(target, sampler, len(prompts), generator)
        picks = draw_picks(len(prompts), schedule.sampler, schedule.states, generator)
        with (drawer or nullcontext)():
            cond, null = _encoded(target, prompts), _encoded(target, [""])
            states = harvest(target, sampler, noise, cond, null, picks, guidance=schedule.guidance)
        with (teacher or nullcontext)():
            rows = states.row.tolist()
            for place, given in enumerate((_encoded(target, prompts)[rows], _encoded(target, [""])[[0] * len(rows)])):
                wanted = [
                    ask(target, states.inputs[part], states.timestep[part], given[part], None)
                    for part in (slice(start, start + 64) for start in range(0, len(rows), 64))
                ]
                parts[place].append(_Taught(states.inputs, states.timestep, given, torch.cat(wanted)))
    return _joined(parts[0]), _joined(parts[1])


def _encoded(target: Target, prompts: Sequence[str]) -> Conditioning:
    """By the text encoders as they are now."""
    return target.encode_live(target.tokens(list(prompts)))


def _joined(parts: Sequence[_Taught]) -> _Taught:
    inputs, times, wanted = (
        torch.cat([getattr(part, name) for part in parts]) for name in ("inputs", "times", "wanted")
    )
    return _Taught(inputs, times, join([part.cond for part in parts]), wanted)


def _train(
    target: Target, factors: list[Tensor], taught: Sequence[_Taught], schedule: Schedule,
    generator: torch.Generator, progress: Callable[[int, int], None],
) -> None:  # fmt: skip
    groups: list[dict[str, Any]] = [
        {"params": [factor], "lr": schedule.rate * float(factor.detach().abs().mean().clamp_min(1e-6))}
        for factor in factors
    ]
    optimizer = torch.optim.Adam(groups)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, schedule.steps)
    counts = [max(1, round(schedule.batch * share)) for share in _SHARES]
    for step in range(schedule.steps):
        picks = [torch.randint(len(p.inputs), (n,), generator=generator) for p, n in zip(taught, counts, strict=True)]
        part = _joined([item[rows.tolist()] for item, rows in zip(taught, picks, strict=True)])
        found = ask(target, part.inputs, part.times, part.cond, None)
        # a loss is a share of the prediction, so that no noise level drowns the others
        sizes = part.wanted.square().flatten(1).mean(1).clamp_min(1e-6)
        error = (found - part.wanted).square().flatten(1).mean(1) / sizes
        optimizer.zero_grad()
        error.mean().backward()
        optimizer.step()
        falling.step()
        progress(step + 1, schedule.steps)
