"""Two baselines that train the last k layers on what is retained: EU-k from new weights, CF-k from the old ones.

Goel et al. 2022, arXiv 2201.06640. "Layers" are linear layers and convolutions. The official code starts EU anew in
every epoch, so that only its last epoch counts; here it does so once, and with the layer's own initialisation instead
of normal(0, 1), which is far too large for a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from erase_plugins.errors import RequestError
from erase_plugins.families.capabilities import CLASSIFIER
from erase_plugins.hookspecs import hookimpl
from erase_plugins.options import option
from erase_plugins.training import TrainingRun
from erase_plugins.training.baseline import Baseline, BaselineOptions, Retaining, full_only
from erase_plugins.types import EraseRequest

if TYPE_CHECKING:
    from torch import Tensor

    from erase_plugins.engine.whole import WholeWeights
    from erase_plugins.families.base import ModelSpec, ModuleRef


@dataclass(frozen=True)
class LayersOptions(BaselineOptions):
    """Options of EU-k and CF-k."""

    k: int = option(1, "how many layers from the end", low=1, high=1000)


class CFk(Retaining):
    """Fine-tuning of the last layers."""

    id = "cf-k"
    title = "CF-k (catastrophic forgetting of the last k layers)"
    paper = "https://arxiv.org/abs/2201.06640"
    summary = "baseline: fine-tunes the last k layers on what is retained"
    Options = LayersOptions

    def modules(self, info: ModelSpec, options: Any) -> Sequence[ModuleRef]:
        layers = [ref for ref in info.refs if ref.kind in ("linear", "conv")]
        if options.k > len(layers):
            raise RequestError(f"k={options.k} layers were asked for, {info.model} has {len(layers)}; take fewer")
        last = layers[-options.k :]
        return last if options.parameters == "full" else [ref for ref in last if ref.kind == "linear"]

    def whole(self, run: TrainingRun) -> WholeWeights:
        from erase_plugins.engine.whole import WholeWeights

        names = {f"{ref.path}.{part}" for ref in run.refs for part in ("weight", "bias")}
        return WholeWeights(run.target, CLASSIFIER, only=names, start=self.start(run))

    def start(self, run: TrainingRun) -> dict[str, Tensor]:
        """Where the layers start, by parameter; what is not named starts as it is."""
        return {}


class EUk(CFk):
    """The last layers are made anew."""

    id = "eu-k"
    title = "EU-k (exact unlearning of the last k layers)"
    summary = "baseline: makes the last k layers anew and trains them on what is retained"
    produces = frozenset({"dense"})
    Options = LayersOptions

    def settle(self, options: Any, request: EraseRequest, info: ModelSpec) -> Any:
        full_only(self, options)
        return super().settle(options, request, info)

    def start(self, run: TrainingRun) -> dict[str, Tensor]:
        from erase_plugins.engine.whole import reset

        seed = int(run.ctx.generator("eu-k").initial_seed() % 2**31)
        return {
            f"{ref.path}.{name}": part
            for number, ref in enumerate(run.refs)
            for name, part in reset(run.target.module(ref), seed + number).items()
        }


@hookimpl
def erase_methods() -> list[Baseline]:
    return [EUk(), CFk()]
