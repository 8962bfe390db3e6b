"""Task vectors: learning the opposite of what is to be forgotten (Ilharco et al., ICLR 2023, arXiv 2212.04089).

A LoRA is trained on the texts to forget and then turned around: W - s B A. It needs nothing to retain, and s can be set
afterwards, since the artifact is linear in it (its strength).

A text that the model knows by heart teaches it nothing more, so the vector is small and s has to be large (MUSE takes
5); then others suffer too. A cheap trial rather than the remedy of choice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from erase_plugins.hookspecs import hookimpl
from erase_plugins.options import option
from erase_plugins.training import Asked, LanguageMethod, LanguageOptions, TrainingRun

if TYPE_CHECKING:
    from torch import Tensor

    from erase_plugins.artifacts.edit import Edit

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

    strength: float = option(5.0, "how far the learned change is turned around", low=0.0, high=1e4)
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

        with torch.no_grad():
            for slot in run.adapters.slots:
                for name, part in slot.parts():
                    if name != "A":  # one factor of two
                        part.mul_(-run.options.strength)
        return super().finish(run)


@hookimpl
def erase_methods() -> list[TaskVector]:
    return [TaskVector()]
