"""Options that training methods share, and what is built from them. No torch at import."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from erase_plugins.engine.optimizers import OPTIMIZERS
from erase_plugins.errors import RequestError
from erase_plugins.options import option

if TYPE_CHECKING:
    from erase_plugins.engine.adapters import Trainable
    from erase_plugins.engine.context import RunContext
    from erase_plugins.engine.loop import Schedule
    from erase_plugins.engine.pools import Pool, Rollout
    from erase_plugins.families.base import Target
    from erase_plugins.types import EraseRequest

#: starts of trajectories that are made at least; fewer would show a concept in too few ways
FEWEST = 20


@dataclass(frozen=True)
class WeightOptions:
    """Which form the change of a weight takes."""

    parameters: str = option("lora", "lora, or full weights", choices=("lora", "full"))
    rank: int = option(8, "LoRA rank; alpha equals rank", low=1, high=1024)

    @property
    def lora_rank(self) -> int | None:
        """Rank of the adapters; None trains full weights."""
        return self.rank if self.parameters == "lora" else None


@dataclass(frozen=True)
class StartOptions:
    """How the LoRA starts, for methods whose own code says it; presets keep what toy-sized models were tuned with."""

    presets = "../presets/start.toml"

    start: str = option(
        "kaiming", "first values of the LoRA's down factors: rank (deviation 1/rank), kaiming (uniform within "
        "1/sqrt(width)), width (deviation 1/sqrt(width))", choices=("kaiming", "rank", "width"),
    )  # fmt: skip


@dataclass(frozen=True)
class LoopOptions:
    """How long and how fast to train."""

    presets = "../presets/loop.toml"

    lr: float | None = option(1e-4, "learning rate; none picks it by parameters and model size", low=0.0, high=1.0)
    iterations: int = option(1000, "training steps", low=1)
    batch: int = option(1, "states per training step", low=1, high=1024)
    optimizer: str = option("adam", "optimizer", choices=OPTIMIZERS)
    cooldown: float = option(0.0, "last share of the steps in which the rate falls to 0", low=0.0, high=1.0)
    precision: str = option(
        "auto", "autocast of the denoiser; auto: bfloat16 where the device computes in it; adapters and loss stay "
        "float32", choices=("auto", "bfloat16", "float32"),
    )  # fmt: skip
    checkpoint_every: int = option(50, "training steps between checkpoints", low=1)
    ema: float = option(
        0.0, "decay of a running average of the trained change, saved instead of the last values; 0: off", low=0.0,
        high=0.9999,
    )  # fmt: skip
    stop_at: float | None = option(
        None, "training ends once a judge sees the concept in at most this share of drawn pictures; none: never",
        low=0.0, high=1.0,
    )  # fmt: skip
    check_every: int = option(20, "training steps between looks of that judge", low=1)
    check_pictures: int = option(16, "pictures drawn for a look of that judge", low=1, high=10_000)

    def schedule(self) -> Schedule:
        """Schedule of the training loop."""
        from erase_plugins.engine.loop import Schedule
        from erase_plugins.engine.stopping import Stop

        assert self.lr is not None
        stop = None if self.stop_at is None else Stop(self.stop_at, self.check_every, self.check_pictures)
        return Schedule(self.iterations, self.lr, self.optimizer, self.cooldown, self.checkpoint_every, self.ema, stop)


@dataclass(frozen=True)
class RolloutOptions(LoopOptions):
    """On which trajectories to train, and what is held in place meanwhile."""

    presets = "../presets/rollout.toml"

    steps: int = option(50, "sampler steps of a rollout", low=1, high=1000)
    guidance: float = option(3.0, "classifier-free guidance of the rollout", low=0.0)
    sampler: str = option("ddim", "sampler of the rollout", choices=("ddim", "euler"))
    trajectories: int = option(64, "harvested trajectories", low=1)
    harvest: int = option(10, "states kept of each trajectory", low=1)
    keep_words: int = option(
        0, "vocabulary words to hold in place, half of them the closest to the concept", low=0, high=10_000,
    )  # fmt: skip
    keep_weight: float = option(1.0, "weight of the preservation term", low=0.0)
    keep_batch: int = option(1, "preserved states per training step", low=1, high=1024)
    near: float = option(0.8, "closeness to the concept from which a word is not held", low=0.0, high=1.0)

    def kept(self, request: EraseRequest) -> int:
        """How many prompts are held in place."""
        return len(request.preserve) + self.keep_words if self.keep_weight > 0 else 0

    def settled(self, request: EraseRequest) -> Any:
        """The options with what follows from the request filled in; no more states are made than steps draw."""
        keep_batch, trajectories = self.keep_batch, self.trajectories
        if "trajectories" not in request.options:
            drawn = -(-self.iterations * self.batch // min(self.harvest, self.steps))
            trajectories = min(trajectories, max(drawn, FEWEST))
        if "keep_batch" not in request.options and request.preserve:
            keep_batch = max(keep_batch, self.batch)
        harvest = min(self.harvest, self.steps)
        return replace(self, harvest=harvest, keep_batch=keep_batch, trajectories=trajectories)

    def rollout_on(self, target: Target, adapters: Trainable, ctx: RunContext) -> Rollout:
        """How trajectories are made."""
        from erase_plugins.engine.pools import Rollout

        return Rollout(target, self.sampler, self.steps, self.guidance, self.harvest, ctx, adapters, self.iterations)

    def holding(
        self, rollout: Rollout, request: EraseRequest, phrases: Sequence[str], templates: Sequence[str], key: str
    ) -> Pool | None:
        """Teacher states of what must stay: the empty prompt, what the user named, vocabulary words; None if off."""
        prompts = self.held_prompts(rollout, request, phrases, templates)
        return rollout.pool("keep", prompts, key, kept=True) if prompts else None

    def held_prompts(
        self, rollout: Rollout, request: EraseRequest, phrases: Sequence[str], templates: Sequence[str]
    ) -> list[str]:
        """What `holding` holds; empty if off. Next to an erased style, close words (other styles) describe others."""
        from erase_plugins.training.retain import keep_words

        if not self.kept(request):
            return []
        generator = rollout.ctx.generator("keep words")
        words = keep_words(rollout.target, phrases, request.concepts, self.keep_words, self.near, generator)
        pairs: list[str] = []
        if request.concepts[0].kind == "style":
            half = (len(words) + 1) // 2
            words, others = words[:half], words[half:]
            pairs = [f"a {close} {other}" for close, other in zip(words, others, strict=False)]
        named = (*request.preserve, *words)
        return ["", *(templates[place % len(templates)].format(word) for place, word in enumerate(named)), *pairs]


@dataclass(frozen=True)
class TrainingOptions(RolloutOptions, WeightOptions):
    """What is trained, how long, on which trajectories, and what is held in place meanwhile."""

    presets = "../presets/training.toml"


def check_templates(templates: Sequence[str]) -> None:
    """Refuses templates without a place for the concept.

    Raises:
        RequestError: names the template.
    """
    bad = [text for text in templates if "{}" not in text]
    if bad or not templates:
        raise RequestError(f"template '{''.join(bad[:1])}' has no {{}} for the concept")


def spread(
    phrases: Sequence[str], others: Sequence[str], templates: Sequence[str], count: int
) -> list[tuple[str, str]]:
    """(template, phrase) of about ``count`` trajectories: ``phrases``, and in every second place ``others``.

    Every phrase comes with every template, whatever ``count`` is.
    """
    rows = [(template, phrase) for template in templates for phrase in phrases]
    rows *= -(-count // (len(rows) * (2 if others else 1)))
    more = [
        (templates[place % len(templates)], others[place % len(others)]) for place in range(len(rows) if others else 0)
    ]
    return [item for pair in zip(rows, more, strict=True) for item in pair] if more else rows


def revive(options: type, stored: Any) -> Any:
    """Options from a plan, which may have been through JSON."""
    return options(**{name: tuple(value) if isinstance(value, list) else value for name, value in stored.items()})
