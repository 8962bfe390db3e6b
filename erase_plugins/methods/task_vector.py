"""Task vectors: learning the opposite of what is to be forgotten (Ilharco et al., ICLR 2023, arXiv 2212.04089).

A LoRA is trained on the texts to forget and then turned around: W - s B A. How far is looked for as the paper does it,
on texts that are not to be forgotten: s grows up to ``strength`` (MUSE takes 5) while what is retained stays as likely
as it was, and no further than to where the forgotten texts are as unlikely as the same about somebody unknown. Without
either it is ``strength``. The artifact is linear in s, which can be set afterwards (its own strength).

A text that the model knows by heart teaches it nothing more, so the vector is small and mostly noise: others suffer
before much is gone. A cheap trial rather than the remedy of choice.

Differs from the paper: steps of s by a factor of the square root of two instead of twenty equal ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from erase_plugins.families.facts import asked
from erase_plugins.families.texts import encoded, tokenizer_of
from erase_plugins.hookspecs import hookimpl
from erase_plugins.options import option
from erase_plugins.training import Asked, LanguageMethod, LanguageOptions, TrainingRun
from erase_plugins.training.likelihood import means

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from erase_plugins.artifacts.edit import Edit

#: texts that are looked at for what suffers, and half powers of two between the first length tried and the last
_LOOKED, _HALVES = 256, 12
_CITATION = """\
@inproceedings{ilharco2023editing,
  title = {Editing Models with Task Arithmetic},
  author = {Ilharco, Gabriel and Ribeiro, Marco Tulio and Wortsman, Mitchell and Gururangan, Suchin and
            Schmidt, Ludwig and Hajishirzi, Hannaneh and Farhadi, Ali},
  booktitle = {International Conference on Learning Representations},
  year = {2023}
}"""


@dataclass(frozen=True)
class TaskVectorOptions(LanguageOptions):
    """Options of task vectors."""

    strength: float = option(5.0, "how far the learned change is turned around at most", low=0.0, high=1e4)
    # a perplexity of 16.4 that rises by half a point, the paper's limit, is 0.03 nat
    harm: float = option(
        0.03, "nat per token by which what is retained may become less likely, where it is known", low=0.0, high=1e4
    )
    retain_weight: float = option(0.0, "weight of texts to retain while learning", low=0.0, high=1e6)


class TaskVector(LanguageMethod):
    """Negated fine-tuning."""

    id = "task-vector"
    title = "Task vector (negated fine-tuning)"
    paper = "https://arxiv.org/abs/2212.04089"
    citation = _CITATION
    summary = "makes a language model forget texts: learns them once more and subtracts what was learned"
    Options = TaskVectorOptions

    def forget_loss(self, run: TrainingRun, forget: Asked, answers: Asked | None) -> Tensor:
        return forget.mean

    def finish(self, run: TrainingRun) -> Edit:
        import torch

        # one factor of two
        parts = [part for slot in run.adapters.slots for name, part in slot.parts() if name != "A"]
        learned = [part.detach().clone() for part in parts]

        def turn(length: float) -> None:
            with torch.no_grad():
                for part, was in zip(parts, learned, strict=True):
                    part.copy_(-length * was)

        length = self._length(run, turn)
        turn(length)
        run.ctx.numbers["turned_around"] = length
        return super().finish(run)

    def _length(self, run: TrainingRun, turn: Callable[[float], None]) -> float:
        """How far the learned change is turned around: see the module."""
        options, aim = run.options, run.ctx.numbers.get("unknown_probability")
        if run.ctx.numbers.get("unknown_share") != 1.0:
            aim = None
        kept = asked(run.request)[1]
        kept = kept[:: -(-len(kept) // _LOOKED) or 1]  # rows about one subject lie together
        if options.strength == 0 or (not kept and aim is None):
            return options.strength
        texts = encoded(run.target, tokenizer_of(run.target), kept, options.max_tokens) if kept else None

        def cost() -> float:
            return 0.0 if texts is None else means(run.target, texts, options.batch)[0]

        turn(0.0)
        limit, found = cost() + options.harm, 0.0
        for length in (options.strength * 2 ** (-half / 2) for half in range(_HALVES, -1, -1)):
            turn(length)
            if cost() > limit:
                run.ctx.warn(
                    f"turned around {found:.2g} times what was learned; more would make what is retained less likely "
                    f"by over {options.harm:g} nat per token (harm); npo or simnpo go further"
                )
                break
            found = length
            if aim is not None and means(run.target, run.state.forget, options.batch)[1] <= aim:
                break
        return found


@hookimpl
def erase_methods() -> list[TaskVector]:
    return [TaskVector()]
