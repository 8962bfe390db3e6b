"""Defences that live in the sampler under attack: rows are learned through what they do to the guided prediction.

With u, c, x the predictions of the model for no prompt, for the concept by its name and for the learned token, (n, y)
what the defences put in the places of (u, x), and g the guidance scale:

    L = mean (n + g (y - n) - (u + g (c - u)))^2 / g^2

It is 0 where the defence lets a picture be led where the name would lead it without. For a negative prompt y is x, and
L = mean (x - x*)^2 with x* = c + (1 - 1/g) (n - u). For safe latent diffusion n is u and y = x - gamma. For guards in
cross-attention n is u, and y is x itself, predicted with them. Weights that are edited beside the defence no longer say
what the name led to; there the noise (or velocity) of the picture stands for c, which is its mean.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from erase_plugins.engine.inversion import Lessons, noise_shares, predicted, question
from erase_plugins.engine.trajectories import ask, guided, repeat
from erase_plugins.errors import Unsupported
from erase_plugins.evaluation.attacks.material import encoded_now
from erase_plugins.runtime.guardrails.attach import stages_of
from erase_plugins.runtime.guardrails.watch import Guiding

if TYPE_CHECKING:
    from erase_plugins.evaluation.run import Subject
    from erase_plugins.families.target import Conditioning


def defences(subject: Subject) -> tuple[Guiding, ...]:
    """What steers the pictures of a subject as it is now.

    Raises:
        Unsupported: a guard reads prompts, and would refuse a learned token.
    """
    found = [stage for stage in stages_of(subject.target.host) if not stage.idle]
    if not all(isinstance(stage, Guiding) for stage in found):
        names = " and ".join(f"'{item.name}'" for item in subject.artifacts if item.manifest.guards)
        raise Unsupported(
            f"the guard {names} reads prompts, and a learned token is no text that it could read, so this would "
            "measure the bare model; attack it by prompts (paraphrase, readable)"
        )
    return tuple(found)


def defended_loss(
    stages: Sequence[Guiding], asked: Callable[[str], Tensor], x: Tensor, c: Tensor, guidance: float, step: Tensor
) -> Tensor:
    """The loss of the module.

    Args:
        stages: what steers.
        asked: the model's prediction for a text (n, channels, height, width); for an empty one that for no prompt.
        x: prediction for the learned token, with gradients.
        c: for the concept by its name.
        guidance: scale g of the pictures.
        step: of the sampler, from 0, for each sample (n, 1, 1, 1).
    """
    text = ""
    for stage in stages:
        text = stage.negative_text(text)
    u, n, y = asked(""), asked(text), x
    for stage in stages:
        y = stage.led(n, y, asked, step)
    return ((guided(n, y, guidance) - guided(u, c, guidance)) / guidance).square().mean()


@dataclass(frozen=True)
class DefendedLessons(Lessons):
    """Lessons whose loss is the defended one.

    Attributes:
        stages: what steers.
        named: the prompts by the concept's name, one per latent; None where edited weights answer them.
        guidance, steps: of the pictures.
    """

    stages: tuple[Guiding, ...]
    named: Conditioning | None
    guidance: float
    steps: int
    _texts: dict[str, Conditioning] = field(default_factory=dict)

    @classmethod
    def under(cls, plain: Lessons, subject: Subject, stages: tuple[Guiding, ...], prompts: Sequence[str]) -> Lessons:
        """Lessons through the defences of a subject; the plain ones where there are none.

        Args:
            plain: of the same subject.
            stages: as `defences` gives them.
            prompts: name the concept, one per latent.
        """
        if not stages:
            return plain
        edited = any(len(item.edit) for item in subject.artifacts)
        named = None if edited else encoded_now(subject.target, prompts)
        return cls(**vars(plain), stages=stages, named=named, guidance=subject.guidance, steps=subject.steps)

    def loss(self, step: int, cond: Conditioning) -> Tensor:
        latents, noise, times = self.noised(step)
        noisy, wanted = question(self.target, latents, noise, *noise_shares(self.target, self.alphas, times))
        known: dict[str, Tensor] = {}

        def asked(text: str) -> Tensor:
            if text not in known:
                known[text] = self._frozen(noisy, times, self._encoded(text))
            return known[text]

        self.ctx.count("training_passes", len(latents))
        x = predicted(self.target, noisy, times, cond, self.ctx.precision, self._passing).to(wanted)
        c = wanted if self.named is None else self._frozen(noisy, times, self.named[self.picks(step)])
        # the sampler's steps, taken as evenly spaced; the first one is pure noise
        reached = (1 - (times + 1) / len(self.alphas)) * self.steps
        return defended_loss(self.stages, asked, x, c, self.guidance, reached.floor().view(-1, 1, 1, 1))

    @torch.no_grad()
    def _frozen(self, noisy: Tensor, times: Tensor, cond: Conditioning) -> Tensor:
        self.ctx.count("training_passes", len(noisy))
        return ask(self.target, noisy, times, cond, self.ctx)

    def _encoded(self, text: str) -> Conditioning:
        """One prompt, or what pipelines take where there is none, for every sample."""
        if text not in self._texts:
            with self.target.passing():  # what an edited text encoder says is not to be remembered
                blank = self.target.blank(2)[-1]
            zeros = not text and not bool(blank.embeds.any())
            self._texts[text] = blank if zeros else encoded_now(self.target, [text])
        return repeat(self._texts[text], self.batch)

    @contextmanager
    def _passing(self, rows: int) -> Iterator[None]:
        with ExitStack() as stack:
            for stage in self.stages:
                stack.enter_context(stage.passing(rows))
            yield
