"""UNDIAL: self-distillation from adjusted logits (Dong et al., NAACL 2025, arXiv 2402.10052).

The model learns its own former distribution with the logit of each token to forget lowered by beta. With z_0 the logits
of the unchanged model at a position whose token is y:

    F = mean over the tokens of H(softmax(z_0 - beta onehot(y)), softmax(z))

Its gradient does not vanish where a text is memorised to the letter, and its aim is bounded.

Differs from the official code: LoRA instead of all weights; the mean is over the tokens that count, where the public
code of open-unlearning also averages over prompts and padding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from erase_plugins.families.scores import Scores
from erase_plugins.hookspecs import hookimpl
from erase_plugins.options import option
from erase_plugins.training import Asked, LanguageMethod, LanguageOptions, TrainingRun

if TYPE_CHECKING:
    from torch import Tensor

_CITATION = """\
@inproceedings{dong2025undial,
  title = {{UNDIAL}: Self-Distillation with Adjusted Logits for Robust Unlearning in Large Language Models},
  author = {Dong, Yijiang River and Lin, Hongzhou and Belkin, Mikhail and Huerta, Ramon and Vuli{\\'c}, Ivan},
  booktitle = {Conference of the Nations of the Americas Chapter of the ACL},
  year = {2025}
}"""


@dataclass(frozen=True)
class UndialOptions(LanguageOptions):
    """Options of UNDIAL."""

    beta: float = option(10.0, "by how much the logit of a token to forget is lowered", low=1e-6, high=1e3)


def adjusted_cross_entropy(now: Any, before: Any, labels: Tensor, beta: float) -> Tensor:
    """Mean over labels (n, tokens) of the cross-entropy to the adjusted former scores.

    Args:
        now, before: `Scores` for the labels, or logits (n, tokens, words).
        labels: (n, tokens).
        beta: see `UndialOptions`.
    """
    from torch.nn.functional import cross_entropy

    def each(student: Tensor, teacher: Tensor, wanted: Tensor) -> Tensor:
        lower = teacher.to(student.dtype).scatter_add(1, wanted[:, None], student.new_full((len(wanted), 1), -beta))
        return cross_entropy(student, lower.softmax(-1), reduction="none")

    found = Scores.of(now, labels)
    return found.each(each, Scores.of(before, labels), labels[:, 1:][found.there]).mean()


class UNDIAL(LanguageMethod):
    """Self-distillation from adjusted logits."""

    id = "undial"
    title = "UNDIAL (self-distillation from adjusted logits)"
    paper = "https://arxiv.org/abs/2402.10052"
    citation = _CITATION
    summary = "makes a language model forget texts: it learns its own answers with their tokens made unlikely"
    Options = UndialOptions

    def forget_loss(self, run: TrainingRun, forget: Asked, answers: Asked | None) -> Tensor:
        before = self.unchanged(run, forget.texts)
        return adjusted_cross_entropy(forget.scores, before, forget.texts.labels, run.options.beta)


@hookimpl
def erase_methods() -> list[UNDIAL]:
    return [UNDIAL()]
