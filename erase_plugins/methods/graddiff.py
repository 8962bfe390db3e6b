"""Gradient difference (Liu et al., CoLLAs 2022, arXiv 2203.12817; as a baseline of TOFU, arXiv 2401.06121).

Gradient ascent on the texts to forget, beside descent on those to retain. With L the negative log-likelihood of a text
and n the number of its tokens:

    F = -sum L / sum n

F has no bound of its own: where no row says how somebody unknown would read, it goes on pushing until the model is
destroyed, so use few steps and look at the retained likelihood in the manifest. ``retain_term=kl`` is what TOFU calls
GA + KL.

Differs from the official code: LoRA instead of all weights; the divergence is a mean over the positions that count,
where the official one also averages over prompts and padding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from erase_plugins.hookspecs import hookimpl
from erase_plugins.training import Asked, LanguageMethod, LanguageOptions, TrainingRun

if TYPE_CHECKING:
    from torch import Tensor

_CITATION = """\
@inproceedings{liu2022continual,
  title = {Continual Learning and Private Unlearning},
  author = {Liu, Bo and Liu, Qiang and Stone, Peter},
  booktitle = {Conference on Lifelong Learning Agents},
  year = {2022}
}"""


@dataclass(frozen=True)
class GradDiffOptions(LanguageOptions):
    """Options of gradient difference."""

    presets = "../presets/graddiff.toml"


class GradDiff(LanguageMethod):
    """Ascent on what is forgotten, descent on what is retained."""

    id = "graddiff"
    title = "Gradient difference"
    paper = "https://arxiv.org/abs/2203.12817"
    citation = _CITATION
    summary = "makes a language model forget texts: gradient ascent on them beside descent on others; without a bound"
    Options = GradDiffOptions

    def forget_loss(self, run: TrainingRun, forget: Asked, answers: Asked | None) -> Tensor:
        return -forget.mean


@hookimpl
def erase_methods() -> list[GradDiff]:
    return [GradDiff()]
