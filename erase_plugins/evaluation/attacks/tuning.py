"""What attacks that fine-tune share: a LoRA on the attention layers, trained on pictures, looked at now and then."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from erase_plugins.engine.adapters import Adapters
from erase_plugins.engine.inversion import Lessons
from erase_plugins.engine.loop import Schedule, train
from erase_plugins.evaluation.attacks.controls import run_context
from erase_plugins.evaluation.attacks.denoising import Looks, looks_of
from erase_plugins.evaluation.attacks.material import encoded_now
from erase_plugins.evaluation.attacks.rates import mean, seen
from erase_plugins.evaluation.attacks.study import Study
from erase_plugins.evaluation.prompts import Prompt, texts_and_seeds
from erase_plugins.evaluation.run import Subject


@dataclass(frozen=True)
class Tuning:
    """How a LoRA is trained.

    Attributes:
        steps, batch, rank: steps at most, pictures per step, rank of the LoRA.
        lr: step size of Adam; 0: 0.001 on the embedded model, else 0.0001.
        early: whether two good looks in a row end it.
        looks: looks at equal distances.
    """

    steps: int
    batch: int
    rank: int
    lr: float
    early: bool
    looks: int


def lora_of(subject: Subject, tuning: Tuning, generator: Any = None) -> Adapters:
    """A LoRA of the attention layers that changes nothing yet."""
    return Adapters(subject.target, subject.target.modules("attn"), tuning.rank, generator=generator)


def drawn(subject: Subject, prompts: Sequence[Prompt]) -> Tensor:
    """Pictures (n, 3, height, width) in 0..1 of a model as it is, counted as queries."""
    subject.queries += len(prompts)
    pictures: Tensor = subject.draw(*texts_and_seeds(prompts))
    return pictures


@contextmanager
def tuned(
    study: Study, subject: Subject, stage: str, texts: Sequence[str], latents: Tensor, looked: Sequence[Prompt],
    tuning: Tuning,
) -> Iterator[tuple[Adapters, dict[str, Any]]]:  # fmt: skip
    """The model with a trained LoRA in force, for the length of a with-block, and facts about the training.

    Args:
        study: of the attack.
        subject: the model, in the state in which it is trained.
        stage: name of the training; what it has is kept there.
        texts, latents: prompts, and clean scaled latents (n, channels, height, width) of their pictures.
        looked: prompts of the looks.
        tuning: how.
    """
    ctx = run_context(study.attack.id, study.budget, stage, subject)
    adapters = lora_of(subject, tuning, ctx.generator("adapters"))
    lessons = Lessons.of(subject.target, latents, tuning.batch, ctx)
    cond = encoded_now(subject.target, texts)
    looks = Looks.within(tuning.steps, len(looked), _look(study, subject, adapters, looked), tuning.looks)
    schedule = Schedule(
        tuning.steps, tuning.lr or (1e-3 if "pocket" in subject.target.info.profiles else 1e-4), every=25,
        stop=looks if tuning.early else looks.without_end(),
    )  # fmt: skip
    with adapters:
        losses = train(ctx, adapters, lambda step: lessons.loss(step, cond[lessons.picks(step)]), schedule, "1")
        yield adapters, {"looks": looks_of(ctx), "steps": len(losses), "passes": int(ctx.numbers["training_passes"])}


def _look(study: Study, subject: Subject, adapters: Adapters, looked: Sequence[Prompt]) -> Callable[[], float]:
    def look() -> float:
        before, adapters.enabled = adapters.enabled, True  # the loop looks at the teacher
        try:
            return mean(seen(study.subject.judge, looked, drawn(subject, looked)))
        finally:
            adapters.enabled = before

    return look
