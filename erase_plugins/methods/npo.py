"""NPO: negative preference optimisation (Zhang et al., COLM 2024, arXiv 2404.05868).

A text y to forget counts as a dispreferred answer without a preferred one. With L the negative log-likelihood of y now,
L_0 that of the unchanged model, both summed over its tokens:

    F = -(2 / beta) mean log sigmoid(beta (L - L_0))

At the start F = (2 / beta) ln 2. Its gradient is that of gradient ascent times 2 sigmoid(-beta (L - L_0)), which falls
to 0 once a text is forgotten; beta -> 0 is gradient ascent.

Differs from the official code: LoRA instead of all weights, with rates that fit it; the unchanged model is the same one
without adapters, asked once instead of in every step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from erase_plugins.hookspecs import hookimpl
from erase_plugins.training import Asked, LanguageMethod, PreferenceOptions, TrainingRun, preference

if TYPE_CHECKING:
    from torch import Tensor

_CITATION = """\
@inproceedings{zhang2024negative,
  title = {Negative Preference Optimization: From Catastrophic Collapse to Effective Unlearning},
  author = {Zhang, Ruiqi and Lin, Licong and Bai, Yu and Mei, Song},
  booktitle = {Conference on Language Modeling},
  year = {2024}
}"""


class NPO(LanguageMethod):
    """Negative preference optimisation."""

    id = "npo"
    title = "NPO (negative preference optimisation)"
    paper = "https://arxiv.org/abs/2404.05868"
    citation = _CITATION
    summary = "makes a language model forget texts: a bounded push away from each, while others are retained"
    compares = True
    Options = PreferenceOptions

    def forget_loss(self, run: TrainingRun, forget: Asked, answers: Asked | None) -> Tensor:
        return preference(forget.rise, run.options.beta)


@hookimpl
def erase_methods() -> list[NPO]:
    return [NPO()]
