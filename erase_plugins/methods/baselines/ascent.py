"""Two baselines that push away from what is forgotten: gradient ascent, and with descent beside it.

Gradient ascent (GA) raises CE on the forgotten pictures, with nothing that holds the rest: without a small rate it
destroys the model. NegGrad+ (Kurmanji et al., NeurIPS 2023, arXiv 2302.09880) lowers
beta CE(retained) - (1 - beta) CE(forgotten).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from erase_plugins.hookspecs import hookimpl
from erase_plugins.options import option
from erase_plugins.training import Labelled, TrainingRun
from erase_plugins.training.baseline import Baseline, BaselineOptions, error
from erase_plugins.training.labelled import Sets

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class AscentOptions(BaselineOptions):
    """Options of gradient ascent."""

    epochs: int = option(5, "how many epochs to train", low=1, high=100_000)
    lr: float = option(1e-4, "learning rate; 10 times as much if nothing happens", low=0.0, high=10.0)


class GradientAscent(Baseline):
    """Cross-entropy of what is forgotten, upwards."""

    id = "gradient-ascent"
    title = "Gradient ascent (GA)"
    paper = "https://arxiv.org/abs/2304.04934"
    summary = "baseline: raises the loss on what is forgotten; nothing holds the rest"
    Options = AscentOptions

    def pass_over(self, sets: Sets) -> int:
        return len(sets.forget)

    def step_loss(self, run: TrainingRun, step: int, forget: Labelled, retain: Labelled) -> Tensor:
        return -error(run, forget)


@dataclass(frozen=True)
class NegGradOptions(BaselineOptions):
    """Options of NegGrad+."""

    beta: float = option(0.95, "weight of what is retained; what is forgotten has the rest", low=0.0, high=1.0)


class NegativeGradientPlus(Baseline):
    """Descent on what is retained beside ascent on what is forgotten."""

    id = "negative-gradient-plus"
    title = "NegGrad+"
    paper = "https://arxiv.org/abs/2302.09880"
    summary = "baseline: lowers the loss on what is retained and raises it on what is forgotten, at once"
    Options = NegGradOptions

    def step_loss(self, run: TrainingRun, step: int, forget: Labelled, retain: Labelled) -> Tensor:
        beta = run.options.beta
        return beta * error(run, retain) - (1 - beta) * error(run, forget)


@hookimpl
def erase_methods() -> list[Baseline]:
    return [GradientAscent(), NegativeGradientPlus()]
