"""What attacks learn from: pictures of the concept that the base draws, and prompts kept apart for the measurement."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from erase_plugins.errors import RequestError, Unsupported
from erase_plugins.evaluation.attacks.rates import FEWEST, seen
from erase_plugins.evaluation.prompts import Prompt, find_axis, quick_prompts, texts_and_seeds
from erase_plugins.hints import Hint

if TYPE_CHECKING:
    from erase_plugins.evaluation.run import Subject
    from erase_plugins.families.target import Conditioning, Target

#: pictures that are drawn for each one that is wanted; the judge sorts out the others
_SPARE = 2
#: distinct prompts are looked for among so many
_POOL = 128


@dataclass(frozen=True)
class Split:
    """Prompts of one concept, in two sets without a common text (unless the judge's world has one text only)."""

    concept: str
    axis: str
    train: tuple[Prompt, ...]
    fresh: tuple[Prompt, ...]

    def training(self, count: int, seed: int) -> list[Prompt]:
        """``count`` prompts to learn from, with their seeds."""
        return _cycle(self.train, count, seed * 100_003 + 50_021)

    def measured(self, count: int, seed: int) -> list[Prompt]:
        """``count`` prompts that nothing was learned from, with seeds that no other set has."""
        return _cycle(self.fresh, count, seed * 100_003 + 70_001)


def _cycle(prompts: Sequence[Prompt], count: int, seed: int) -> list[Prompt]:
    return [replace(prompts[place % len(prompts)], seed=seed + place) for place in range(count)]


def split_prompts(subject: Subject, concept: str) -> Split:
    """Prompts of a concept: the bare ones are for the measurement, the others go to both sides by turns.

    Raises:
        RequestError: the concept is not among those that are attacked.
        Unsupported: the judge does not know it.
    """
    if concept not in subject.erased:
        raise RequestError(
            f"concept '{concept}' is not among {', '.join(subject.erased)}; name one, or add ", Hint("erased")
        )
    pool = quick_prompts(subject.judge, [concept], _POOL, subject.seed)["target"]
    texts = {item.text: item for item in pool}
    distinct = list(texts.values())
    bare = [item for item in distinct if len(item.expected) == 1]
    others = [item for item in distinct if len(item.expected) > 1] or bare
    train, fresh = others[::2], others[1::2]
    return Split(concept, find_axis(subject.judge, concept), tuple(train), tuple([*bare, *fresh] or train))


def drawn_by_base(subject: Subject, prompts: Sequence[Prompt]) -> Tensor:
    """Pictures (n, 3, height, width) in 0..1, as 8 bits a value hold them, of the model without any artifact."""
    pictures: Tensor = subject.generate(*texts_and_seeds(prompts), edit="off")
    return (pictures * 255).round().clamp(0, 255) / 255


@dataclass(frozen=True)
class Lesson:
    """Pictures (n, 3, height, width) in 0..1 with their prompts, and the share of candidates that was usable."""

    pictures: Tensor
    prompts: tuple[Prompt, ...]
    share: float

    @property
    def key(self) -> str:
        """Tells this lesson from any other."""
        told = [(item.text, item.seed) for item in self.prompts]
        return hashlib.sha256(self.pictures.cpu().contiguous().numpy().tobytes() + repr(told).encode()).hexdigest()

    def latents(self, subject: Subject) -> Tensor:
        """Clean scaled latents (n, channels, height, width)."""
        generator = torch.Generator().manual_seed(subject.seed)
        return subject.target.latents(self.pictures * 2 - 1, generator)


def lesson(subject: Subject, prompts: Sequence[Prompt], count: int, what: str) -> Lesson:
    """Up to ``count`` pictures of the base in which the judge sees what their prompts name.

    Args:
        subject: the model; its edit is off.
        prompts: candidates with their seeds.
        count: pictures that are wanted.
        what: how a refusal calls them.

    Raises:
        Unsupported: the base draws it too seldom to learn from.
    """
    pictures = drawn_by_base(subject, prompts)
    good = [place for place, hit in enumerate(seen(subject.judge, prompts, pictures)) if hit]
    share = len(good) / len(prompts)
    if len(good) < min(count, FEWEST):
        raise Unsupported(
            f"the base draws {what} in {share:.0%} of {len(prompts)} pictures; there is too little to learn from, and "
            "nothing to bring back"
        )
    chosen = good[:count]
    return Lesson(pictures[chosen], tuple(prompts[place] for place in chosen), share)


def concept_lesson(subject: Subject, split: Split, count: int) -> Lesson:
    """Pictures of the attacked concept; see `lesson`."""
    return lesson(subject, split.training(count * _SPARE, subject.seed), count, split.concept)


def other_lesson(subject: Subject, count: int) -> Lesson:
    """Pictures of things that were never erased; see `lesson`."""
    prompts = quick_prompts(subject.judge, subject.erased, 2 * count, subject.seed + 3)["kept"]
    return lesson(subject, prompts, count, "what is kept")


@torch.no_grad()
def encoded_now(target: Target, prompts: Sequence[str]) -> Conditioning:
    """Prompts encoded by the text encoders as they are at this moment; `Target.encode` remembers earlier ones."""
    return target.encode_live(target.tokens(prompts))
