"""MCU: unlearning along minor components (Xiao et al., 2026, arXiv 2605.11685).

What training on related texts brings back first are changes along the directions in which hidden states vary most.
The states of texts to forget are therefore led astray, as in RMU, in all directions but their first k principal ones:

    F = mean of |(I - Q Q^T) (h - c u)|^2,   Q the first k right singular vectors of these states, u free of them.

Made after the idea and the abstract; no code of the authors was at hand, so losses and settings are ours: those of RMU.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from erase_plugins.hookspecs import hookimpl
from erase_plugins.options import option
from erase_plugins.training.steered import SteeredMethod, SteeredOptions

if TYPE_CHECKING:
    from torch import Tensor

    from erase_plugins.training import TrainingRun

_CITATION = """\
@misc{xiao2026robust,
  title = {Robust {LLM} Unlearning Against Relearning Attacks: The Minor Components in Representations Matter},
  author = {Xiao, Zeguan and Xu, Xuanzhe and Chen, Yun and Wang, Yong and Yang, Jian and Hu, Yanqing and
            Chen, Guanhua},
  year = {2026},
  eprint = {2605.11685},
  archivePrefix = {arXiv}
}"""


@dataclass(frozen=True)
class MCUOptions(SteeredOptions):
    """Options of MCU."""

    components: int = option(8, "principal directions of the states that are left alone", low=1, high=100_000)


class MCU(SteeredMethod):
    """Misdirection along minor components."""

    id = "mcu"
    title = "MCU (unlearning along minor components)"
    paper = "https://arxiv.org/abs/2605.11685"
    citation = _CITATION
    summary = "makes a language model forget texts along directions that later training does not bring back first"
    Options = MCUOptions

    def known(self, run: TrainingRun, states: Tensor) -> Tensor:
        import torch

        _, _, directions = torch.linalg.svd(states, full_matrices=False)
        return directions[: min(run.options.components, len(directions) - 1)].T


@hookimpl
def erase_methods() -> list[MCU]:
    return [MCU()]
