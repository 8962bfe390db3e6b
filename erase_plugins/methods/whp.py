"""WHP: "Who's Harry Potter", forgetting by what a reinforced model knows better (Eldan and Russinovich, 2023,
arXiv 2310.02238).

A first LoRA is trained on the texts to forget. Where its logits z_r exceed those of the unchanged model z_0, the text
is what it knows from there; the most likely tokens without that excess,

    argmax of z_0 - a relu(z_r - z_0),

are learned in place of the true ones by a second LoRA, which is the result.

Differs from the paper: names are not exchanged for generic ones in what the unchanged model reads, which needs a list
of them made by hand; LoRA instead of all weights.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from erase_plugins.hookspecs import hookimpl
from erase_plugins.options import option
from erase_plugins.training import Asked, LanguageMethod, LanguageOptions, TrainingRun
from erase_plugins.training.asked import ask
from erase_plugins.training.language import Sets

if TYPE_CHECKING:
    from torch import Tensor

_CITATION = """\
@misc{eldan2023whos,
  title = {Who's {Harry Potter}? Approximate Unlearning in {LLMs}},
  author = {Eldan, Ronen and Russinovich, Mark},
  year = {2023},
  eprint = {2310.02238},
  archivePrefix = {arXiv}
}"""


@dataclass(frozen=True)
class WHPOptions(LanguageOptions):
    """Options of WHP."""

    reinforce_steps: int = option(20, "steps on the texts to forget, before", low=1, high=1_000_000)
    alpha: float = option(5.0, "how far back from what the reinforced model knows better", low=0.0, high=1e4)


def generic(before: Tensor, reinforced: Tensor, alpha: float) -> Tensor:
    """Logits without what a reinforced model knows better."""
    return before - alpha * (reinforced - before).relu()


class WHP(LanguageMethod):
    """Learning what one would say who never read the text."""

    id = "whp"
    title = "WHP (Who's Harry Potter)"
    paper = "https://arxiv.org/abs/2310.02238"
    citation = _CITATION
    summary = "makes a language model forget texts: it learns what it would say without what a reinforced copy knows"
    Options = WHPOptions

    def prepare(self, run: TrainingRun) -> Sets:
        import torch

        from erase_plugins.engine.loop import Scale, gradients

        sets, options, adapters = super().prepare(run), run.options, run.adapters
        start = {name: part.detach().clone() for name, part in adapters.named_parameters().items()}
        optimizer, scale = torch.optim.Adam(adapters.parameters(), options.lr), Scale.of(run.target)
        for step in range(options.reinforce_steps):
            loss = self._ask(run, sets.forget[self._rows(run, "reinforce", sets.forget, step)]).mean
            for part, grad in zip(adapters.parameters(), gradients(loss, adapters.parameters(), scale), strict=True):
                part.grad = grad
            optimizer.step()
        labels = sets.forget.labels.clone()
        with torch.no_grad():
            for rows in torch.arange(len(labels)).split(options.batch):
                part = sets.forget[rows]
                reinforced, found = ask(run.target, part).scores, part.labels.clone()
                found[:, 1:][reinforced.there] = self.unchanged(run, part).each(
                    lambda before, now: generic(before, now, options.alpha).argmax(-1), reinforced
                )
                labels[rows, : found.shape[1]] = found
        adapters.load(start)
        counted = sets.forget.labels >= 0
        same = float((labels == sets.forget.labels)[counted].float().mean())
        run.ctx.numbers["targets_unchanged"] = same
        if same > 0.9:
            run.ctx.warn(
                f"{same:.0%} of the tokens to learn are those to forget: the reinforced model knows them no better; "
                "raise reinforce_steps, lr or alpha, or use npo"
            )
        return replace(sets, answers=replace(sets.forget, labels=labels))

    def forget_loss(self, run: TrainingRun, forget: Asked, answers: Asked | None) -> Tensor:
        assert answers is not None
        return answers.mean


@hookimpl
def erase_methods() -> list[WHP]:
    return [WHP()]
