"""A head of class means: the last layer becomes a nearest-mean classifier that has no mean of what is forgotten.

With mu_c the mean feature of class c over retained pictures, logits are s (mu_c . h - |mu_c|^2 / 2), which is the
nearest mean up to a term that all classes share; s makes them as wide as they were. Forgotten classes get no weights
and a bias below every score that a feature of twice the largest seen norm can have. Of single pictures (kind samples)
only the means are made anew. The features still know what the head does not say: the cheapest baseline, and a warning
to measure features too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from erase_plugins.errors import RequestError, Unsupported
from erase_plugins.families.capabilities import CLASSIFIER
from erase_plugins.families.labels import head_of
from erase_plugins.hookspecs import hookimpl
from erase_plugins.training import TrainingRun
from erase_plugins.training.baseline import Baseline, Solved

if TYPE_CHECKING:
    from torch import Tensor

    from erase_plugins.engine.whole import WholeWeights
    from erase_plugins.families.base import ModelSpec, ModuleRef


class ClassMeanHead(Solved):
    """Class means in place of the head."""

    id = "class-mean-head"
    title = "Class-mean head"
    paper = "https://arxiv.org/abs/1703.05175"
    summary = "baseline: the head becomes the means of the retained classes; what is forgotten has none"

    def modules(self, info: ModelSpec, options: Any) -> Sequence[ModuleRef]:
        return [head_of(info)]

    def whole(self, run: TrainingRun) -> WholeWeights:
        from erase_plugins.engine.whole import WholeWeights

        head = head_of(run.target.info).path
        return WholeWeights(run.target, CLASSIFIER, only={f"{head}.weight", f"{head}.bias"})

    def solve(self, run: TrainingRun) -> Mapping[str, Tensor]:
        import torch

        retain, gone, classifier = run.state.retain, set(run.state.gone), run.target.classifier
        with torch.no_grad():
            seen = [classifier.read(retain.pictures[rows]) for rows in torch.arange(len(retain)).split(256)]
        features, logits = (torch.cat([pair[place] for pair in seen]).double() for place in (0, 1))
        kept = [number for number in range(len(classifier.labels)) if number not in gone]
        if bare := [classifier.labels[number] for number in kept if not bool((retain.labels == number).any())]:
            raise RequestError(
                f"class-mean-head needs pictures of every class that stays; there are none of {', '.join(bare[:3])}"
            )
        means = torch.stack([features[retain.labels == number].mean(0) for number in kept])
        found = mean_head(means, features, kept, len(classifier.labels), float(logits[:, kept].std()))
        head, names = head_of(run.target.info).path, run.adapters.values
        if f"{head}.bias" not in names:
            raise Unsupported(f"the head of {run.target.info.model} has no bias, and class means need one")
        return {f"{head}.{name}": part.to(names[f"{head}.{name}"].dtype) for name, part in found.items()}


def mean_head(means: Tensor, features: Tensor, kept: list[int], count: int, width: float) -> dict[str, Tensor]:
    """``weight`` (count, dim) and ``bias`` (count,) of a nearest-mean head.

    Args:
        means: (kept, dim) mean features.
        features: (n, dim) of pictures, for the scale.
        kept: numbers of the classes of ``means``; the others are never the most likely.
        count: all classes.
        width: standard deviation that the scores shall have.
    """
    bias = -means.square().sum(1) / 2
    plain = features @ means.T + bias
    scale = width / float(plain.std().clamp(min=1e-12))
    weight, offset = means.new_zeros(count, means.shape[1]), means.new_zeros(count)
    lowest = 2 * float(features.norm(dim=1).max()) * float(means.norm(dim=1).max()) + float(-bias.min())
    offset[:] = -scale * lowest - 1
    weight[kept], offset[kept] = scale * means, scale * bias
    return {"weight": weight, "bias": offset}


@hookimpl
def erase_methods() -> list[Baseline]:
    return [ClassMeanHead()]
