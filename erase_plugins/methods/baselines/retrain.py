"""Retraining: a model with new random weights is trained on what is retained. The reference of all others.

Not an unlearning method but what they are held against. It is exact where it runs through the same recipe as the
original; the options are that recipe. The artifact is the whole difference between both models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from erase_plugins.engine.optimizers import OPTIMIZERS
from erase_plugins.families.capabilities import CLASSIFIER
from erase_plugins.hookspecs import hookimpl
from erase_plugins.options import option
from erase_plugins.training.baseline import Baseline, BaselineOptions, Retaining, full_only
from erase_plugins.types import EraseRequest

if TYPE_CHECKING:
    from erase_plugins.engine.whole import WholeWeights
    from erase_plugins.families.base import ModelSpec
    from erase_plugins.training import TrainingRun


@dataclass(frozen=True)
class RetrainOptions(BaselineOptions):
    """The recipe of the original."""

    epochs: int = option(15, "how many epochs to train", low=1, high=100_000)
    batch: int | None = option(64, "pictures of a batch", low=1, high=65_536)
    lr: float = option(2e-3, "learning rate", low=0.0, high=10.0)
    weight_decay: float = option(0.01, "decay of what is trained", low=0.0, high=10.0)
    optimizer: str = option("adamw", "optimizer", choices=OPTIMIZERS)


class Retrain(Retaining):
    """Training from the start, without what is forgotten."""

    id = "retrain"
    title = "Retraining without what is forgotten"
    paper = "https://arxiv.org/abs/2403.07362"
    summary = "reference: a model with new random weights is trained on what is retained only"
    produces = frozenset({"dense"})
    Options = RetrainOptions

    def settle(self, options: Any, request: EraseRequest, info: ModelSpec) -> Any:
        full_only(self, options)
        return super().settle(options, request, info)

    def notes(self, request: EraseRequest, options: Any) -> Sequence[str]:
        return ("a reference only where the pictures at hand are all that the model was trained on",)

    def whole(self, run: TrainingRun) -> WholeWeights:
        from erase_plugins.engine.whole import WholeWeights

        seed = int(run.ctx.generator("retrain").initial_seed() % 2**31)
        return WholeWeights(run.target, CLASSIFIER, start=run.target.classifier.fresh(seed))


@hookimpl
def erase_methods() -> list[Baseline]:
    return [Retrain()]
