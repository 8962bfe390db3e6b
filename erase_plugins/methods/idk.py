"""IDK: a refusal in place of the answer, by likelihood or by preference (TOFU, Maini et al., 2024, arXiv 2401.06121).

With L the negative log-likelihood of a text now, L_0 before, y the answer to forget, r the refusal to the same prompt:

    idk      F = NLL(r), the mean over its tokens
    dpo-idk  F = -(2 / beta) mean log sigmoid(beta [(L(y) - L_0(y)) - (L(r) - L_0(r))])

Both teach what to say, and hide more than they erase: the old answer stays likely under the new one, and a few steps of
training on other facts bring it back. Use npo where that matters.

Differs from the official code: LoRA instead of all weights; idk adds the means over refusals and over retained tokens,
where TOFU takes one mean over both batches together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from erase_plugins.hookspecs import hookimpl
from erase_plugins.training import Asked, LanguageMethod, PreferenceOptions, TrainingRun, preference

if TYPE_CHECKING:
    from torch import Tensor

_CITATION = """\
@inproceedings{maini2024tofu,
  title = {{TOFU}: A Task of Fictitious Unlearning for {LLM}s},
  author = {Maini, Pratyush and Feng, Zhili and Schwarzschild, Avi and Lipton, Zachary C. and Kolter, J. Zico},
  booktitle = {Conference on Language Modeling},
  year = {2024}
}"""


class IDK(LanguageMethod):
    """A refusal in place of the answer."""

    id = "idk"
    title = "IDK (a refusal in place of the answer)"
    paper = "https://arxiv.org/abs/2401.06121"
    citation = _CITATION
    summary = "teaches a language model to say that it does not know; hides rather than erases"
    answers = True

    def forget_loss(self, run: TrainingRun, forget: Asked, answers: Asked | None) -> Tensor:
        assert answers is not None
        return answers.mean


class DPOIDK(LanguageMethod):
    """Direct preference for a refusal."""

    id = "dpo-idk"
    title = "IDK by preference (DPO)"
    paper = "https://arxiv.org/abs/2401.06121"
    citation = _CITATION
    summary = "teaches a language model to prefer a refusal to what it forgets; hides rather than erases"
    compares = answers = True
    Options = PreferenceOptions

    def forget_loss(self, run: TrainingRun, forget: Asked, answers: Asked | None) -> Tensor:
        assert answers is not None
        return preference(forget.rise - answers.rise, run.options.beta)


@hookimpl
def erase_methods() -> list[LanguageMethod]:
    return [IDK(), DPOIDK()]
