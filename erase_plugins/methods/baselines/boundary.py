"""Two baselines that move the boundary of what is forgotten (Chen et al., CVPR 2023, arXiv 2303.11570).

Boundary shrink: each forgotten picture gets the label of the nearest other class, found by one signed step away from
its own, x' = clip(x + reach sign(grad CE)) rounded to bytes; CE towards it. The official code takes the most likely
label of x', which may be the true one, and then nothing is unlearned; here it is the most likely other label.
Boundary expand: forgotten pictures go to an extra class, which is thrown away afterwards. Both look at what is
forgotten only; labels are found once, with the original model.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from erase_plugins.families.capabilities import CLASSIFIER
from erase_plugins.hookspecs import hookimpl
from erase_plugins.options import option
from erase_plugins.training import Labelled, TrainingRun
from erase_plugins.training.baseline import Baseline, BaselineOptions, error, full_only
from erase_plugins.training.labelled import Sets
from erase_plugins.types import EraseRequest

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from erase_plugins.engine.whole import WholeWeights
    from erase_plugins.families.base import ModelSpec


@dataclass(frozen=True)
class BoundaryOptions(BaselineOptions):
    """Options of both."""

    lr: float = option(1e-5, "learning rate; 10 times as much if nothing happens", low=0.0, high=10.0)


@dataclass(frozen=True)
class ShrinkOptions(BoundaryOptions):
    """Options of boundary shrink."""

    reach: float = option(0.1, "length of the step in every pixel, as a share of their range", low=0.0, high=1.0)


class BoundaryShrink(Baseline):
    """Forgotten pictures become the nearest other class."""

    id = "boundary-shrink"
    title = "Boundary shrink"
    paper = "https://arxiv.org/abs/2303.11570"
    summary = "baseline: what is forgotten becomes the nearest other class; looks at nothing else"
    Options = ShrinkOptions

    def pass_over(self, sets: Sets) -> int:
        return len(sets.forget)

    def prepare(self, run: TrainingRun) -> Any:
        import torch

        sets = super().prepare(run)
        low, high = sets.forget.pictures.aminmax()
        logits = run.target.classifier.logits
        with run.adapters.disabled():
            near = [nearest_other(logits, sets.forget[rows], run.options.reach, float(low), float(high))
                    for rows in torch.arange(len(sets.forget)).split(run.options.batch)]  # fmt: skip
        return replace(sets, own=Labelled(sets.forget.pictures, torch.cat(near)))

    def loss(self, run: TrainingRun, step: int) -> Tensor:
        return error(run, self.drawn(run, "forget", run.state.own, step))


def stepped(
    logits: Callable[[Tensor], Tensor], part: Labelled, reach: float, low: float, high: float
) -> Tensor:  # fmt: skip
    """Pictures after one signed step that raises their mean cross-entropy, clipped and rounded to 256 levels."""
    import torch
    from torch.nn.functional import cross_entropy

    pictures = part.pictures.detach().clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(cross_entropy(logits(pictures), part.labels), pictures)
    span = high - low or 1.0
    unit = ((part.pictures - low) / span + reach * slope.sign()).clamp(0, 1)
    return low + span * (unit * 255).round() / 255


def nearest_other(
    logits: Callable[[Tensor], Tensor], part: Labelled, reach: float, low: float, high: float
) -> Tensor:  # fmt: skip
    """The most likely other label (n,) of pictures after a step away from their own."""
    import torch

    moved = stepped(logits, part, reach, low, high)
    with torch.no_grad():
        found = logits(moved).clone()
    found[torch.arange(len(part)), part.labels] = -torch.inf
    return found.argmax(-1)


class BoundaryExpand(Baseline):
    """Forgotten pictures become an extra class, which is thrown away."""

    id = "boundary-expand"
    title = "Boundary expand"
    paper = "https://arxiv.org/abs/2303.11570"
    summary = "baseline: what is forgotten becomes an extra class that is thrown away; looks at nothing else"
    produces = frozenset({"dense"})
    Options = BoundaryOptions

    def pass_over(self, sets: Sets) -> int:
        return len(sets.forget)

    def settle(self, options: Any, request: EraseRequest, info: ModelSpec) -> Any:
        full_only(self, options)
        return super().settle(options, request, info)

    def whole(self, run: TrainingRun) -> WholeWeights:
        import torch

        from erase_plugins.engine.whole import WholeWeights

        with torch.no_grad():
            width = run.target.classifier.features(torch.zeros(1, *run.target.classifier.input_shape)).shape[-1]
        row = torch.randn(1, width + 1, generator=run.ctx.generator("extra class")) * width**-0.5
        return WholeWeights(run.target, CLASSIFIER, beside=row)

    def loss(self, run: TrainingRun, step: int) -> Tensor:
        import torch
        from torch.nn.functional import cross_entropy

        part = self.drawn(run, "forget", run.state.forget, step)
        features, logits = run.target.classifier.read(part.pictures)
        row = run.adapters.beside
        more = features @ row[:, :-1].T + row[:, -1]
        whole = torch.cat([logits, more], dim=-1)
        return cross_entropy(whole, torch.full_like(part.labels, whole.shape[-1] - 1))


@hookimpl
def erase_methods() -> list[Baseline]:
    return [BoundaryShrink(), BoundaryExpand()]
