"""SimNPO: NPO without a reference model (Fan et al., 2024, arXiv 2410.07163).

With l = L / n the mean negative log-likelihood over the n tokens of a text to forget, and a margin delta:

    F = -(2 / beta) mean log sigmoid(beta (l - delta))

Differs from the official code: LoRA instead of all weights, with rates that fit it; ``forget_weight`` is 1 (the papers'
0.125 does nothing to LoRA in few steps).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from erase_plugins.hookspecs import hookimpl
from erase_plugins.options import option
from erase_plugins.training import Asked, LanguageMethod, PreferenceOptions, TrainingRun, preference

if TYPE_CHECKING:
    from torch import Tensor

_CITATION = """\
@article{fan2024simplicity,
  title = {Simplicity Prevails: Rethinking Negative Preference Optimization for {LLM} Unlearning},
  author = {Fan, Chongyu and Liu, Jiancheng and Lin, Licong and Jia, Jinghan and Zhang, Ruiqi and Mei, Song and
            Liu, Sijia},
  journal = {arXiv preprint arXiv:2410.07163},
  year = {2024}
}"""


@dataclass(frozen=True)
class SimNPOOptions(PreferenceOptions):
    """Options of SimNPO."""

    presets = "../presets/simnpo.toml"

    beta: float = option(4.5, "how soon a forgotten text stops to push", low=1e-6, high=1e3)
    delta: float | None = option(
        None, "nat per token from which it begins to stop; none: what a row says of somebody unknown costs, else 0",
        low=0.0, high=1e3,
    )  # fmt: skip


class SimNPO(LanguageMethod):
    """NPO without a reference."""

    id = "simnpo"
    title = "SimNPO (NPO without a reference)"
    paper = "https://arxiv.org/abs/2410.07163"
    citation = _CITATION
    summary = "makes a language model forget texts: as npo, by likelihood per token and without a reference"
    Options = SimNPOOptions

    def forget_loss(self, run: TrainingRun, forget: Asked, answers: Asked | None) -> Tensor:
        delta = run.options.delta
        if delta is None:
            bound = forget.texts.bound
            delta = 0.0 if bound is None else bound.nan_to_num(posinf=0.0)
        return preference(forget.nll / forget.counts - delta, run.options.beta)


@hookimpl
def erase_methods() -> list[SimNPO]:
    return [SimNPO()]
