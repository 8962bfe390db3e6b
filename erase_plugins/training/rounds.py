"""Search rounds: tokens that bring a concept back are learned against the student, and erased like its name.

What is found stays in the run's own work folder and memory: the tokens are attacks and are no part of an edit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from erase_plugins.engine.inversion import STYLES, THINGS, LearnedRows, Lessons, learn_rows, slots, start_rows
from erase_plugins.engine.loop import Carried, Schedule
from erase_plugins.engine.trajectories import guided, harvest, join, start_noise
from erase_plugins.errors import RequestError

if TYPE_CHECKING:
    from erase_plugins.engine.pools import Rollout
    from erase_plugins.families.base import Conditioning
    from erase_plugins.training.round_options import RoundOptions
    from erase_plugins.types import Concept, Event


def clean_latents(rollout: Rollout, name: str, prompts: Sequence[str], key: str) -> Tensor:
    """Scaled latents (prompts, channels, height, width) of pictures that the teacher draws, kept in the work folder."""
    target, ctx = rollout.target, rollout.ctx
    scheduler = target.scheduler(rollout.steps, rollout.sampler)
    last = len(scheduler.timesteps) - 1
    noise = start_noise(target, scheduler, len(prompts), ctx.generator(f"noise {name}"))

    def make() -> dict[str, Tensor]:
        with rollout.adapters.disabled():
            end = harvest(
                target, scheduler, noise, rollout.encoded(prompts), rollout.encoded([""]), [[last]] * len(prompts),
                guidance=rollout.guidance, ctx=ctx, progress=rollout.progress,
            )  # fmt: skip
        seen, solver = end.predictions, target.scheduler(rollout.steps, rollout.sampler)
        stamp = solver.timesteps[last].to(end.x.device)
        out = guided(seen["null"], seen["prompt"], rollout.guidance)
        return {"latents": solver.step(out, stamp, end.x).prev_sample}

    return ctx.stash(f"states-{name}", key, make)["latents"].to(target.device)


@dataclass(frozen=True)
class Search:
    """How tokens are learned against the student as it is at the moment.

    Attributes:
        rollout: draws the pictures, by the teacher.
        options: see `RoundOptions`.
        concepts: what is erased.
        templates: prompts with {} for the concept or a token.
        key: identifies the run, for what is kept on disk.
    """

    rollout: Rollout
    options: RoundOptions
    concepts: Sequence[Concept]
    templates: Sequence[str]
    key: str

    def check(self) -> None:
        """Refuses templates without room for the token.

        Raises:
            RequestError: names the template.
        """
        slots(self.rollout.target, self.templates, "{}", self.options.inversion_rows)

    def learn(self, number: int, turn: int) -> Tensor:
        """Rows (rows, width of all text encoders) that make the student draw concept ``number``; differ by ``turn``."""
        rollout, options, concept = self.rollout, self.options, self.concepts[number]
        target, count = rollout.target, self.options.inversion_pictures
        texts = [self.templates[place % len(self.templates)] for place in range(count)]
        latents = clean_latents(rollout, f"pictures-{number}", [text.format(concept.text) for text in texts], self.key)
        neutral = STYLES if concept.kind == "style" else THINGS
        learned = LearnedRows(target, start_rows(target, neutral, options.inversion_rows))
        ctx = replace(rollout.ctx, work=None, listeners=(self.progress,), seed=rollout.ctx.seed + 1 + turn)
        lessons = Lessons.of(target, latents, min(options.inversion_batch, count), ctx)
        where = slots(target, texts, "{}", options.inversion_rows)
        schedule = Schedule(options.inversion_steps, options.inversion_lr, cooldown=0.5)
        learn_rows(learned, where, lessons, schedule, ctx, "")
        rollout.ctx.note(f"round {turn + 1}: learned a token that stands for {concept.text}")
        return learned.rows.detach().clone()

    def progress(self, event: Event) -> None:
        """Tells that the run goes on, and stops it where asked; for the loops inside."""
        if event.kind == "step":
            self.rollout.progress()

    @torch.no_grad()
    def encoded(self, rows: Tensor) -> Conditioning:
        """The templates with the token in place of the concept, one prompt each."""
        target = self.rollout.target
        return LearnedRows(target, rows).encode(slots(target, self.templates, "{}", len(rows)))


class Rounds:
    """Tokens learned at equal distances of a training, and prompts in which they stand; carried by its checkpoints.

    Args:
        search: how they are learned.
        steps: training steps.
    """

    def __init__(self, search: Search, steps: int) -> None:
        count = search.options.adversarial_rounds
        if steps <= count:
            raise RequestError(f"{count} adversarial_rounds do not fit into {steps} training steps; raise iterations")
        search.check()
        self.search = search
        #: training steps before which a round is held
        self.starts = [steps * (turn + 1) // (count + 1) for turn in range(count)]
        self._rows: list[list[Tensor]] = []
        self._encoded: list[list[Conditioning]] = []
        self._place = {
            template.format(phrase): (owner, place)
            for owner, concept in enumerate(search.concepts)
            for place, template in enumerate(search.templates)
            for phrase in (concept.text, *concept.prompts)
        }

    def catch_up(self, step: int) -> None:
        """Holds the rounds that are due before training step ``step``."""
        for turn in range(len(self._rows), sum(start <= step for start in self.starts)):
            self._add([self.search.learn(number, turn) for number in range(len(self.search.concepts))])

    def _add(self, rows: list[Tensor]) -> None:
        self._rows.append(rows)
        self._encoded.append([self.search.encoded(part) for part in rows])

    def put(self, step: int, cond: Conditioning) -> Conditioning:
        """Encoded prompts of the concepts, with found tokens in place of the names: each as often as the name."""
        self.catch_up(step)
        parts = []
        for number, prompt in enumerate(cond.prompts):
            chosen = (step + number) % (len(self._encoded) + 1)
            owner, place = self._place[prompt]
            parts.append(self._encoded[chosen - 1][owner][place] if chosen else cond[number])
        return join(parts)

    def tensors(self) -> dict[str, Tensor]:
        """Everything that was found."""
        return {f"{turn}.{owner}": rows for turn, found in enumerate(self._rows) for owner, rows in enumerate(found)}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Inverse of `tensors`."""
        self._rows, self._encoded = [], []
        owners, device = range(len(self.search.concepts)), self.search.rollout.target.device
        for turn in range(len(tensors) // len(owners)):
            self._add([tensors[f"{turn}.{owner}"].to(device) for owner in owners])


def among(carried: Any, kind: type) -> Any:
    """What a loss carries of one kind, by itself or among others; None if it carries none."""
    parts = carried.parts.values() if isinstance(carried, Together) else (carried,)
    return next((part for part in parts if isinstance(part, kind)), None)


class Together:
    """Several things that a loss carries from step to step, by name."""

    def __init__(self, parts: Mapping[str, Carried]) -> None:
        self.parts = dict(parts)

    def tensors(self) -> dict[str, Tensor]:
        """State of all of them."""
        return {f"{name}.{key}": value for name, part in self.parts.items() for key, value in part.tensors().items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Inverse of `tensors`."""
        for name, part in self.parts.items():
            prefix = f"{name}."
            part.load({key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)})
