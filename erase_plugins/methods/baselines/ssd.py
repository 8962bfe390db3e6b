"""SSD, selective synaptic dampening: weights that matter for what is forgotten more than for all data are shrunk.

Foster et al., AAAI 2024, arXiv 2308.07707. With I the mean squared gradient of single pictures (diagonal of the
empirical Fisher matrix) over all data (I_D) and over what is forgotten (I_f): where I_f > alpha I_D, the weight is
multiplied by min(lam I_D / I_f, 1). Nothing is trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from erase_plugins.hookspecs import hookimpl
from erase_plugins.options import option
from erase_plugins.training import Labelled, TrainingRun
from erase_plugins.training.baseline import Baseline, Solved, SolvedOptions, picture_gradients

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class SSDOptions(SolvedOptions):
    """Options of SSD."""

    alpha: float = option(10.0, "how much more a weight must matter for what is forgotten", low=0.0, high=1e6)
    lam: float = option(1.0, "how much of such a weight is left", low=0.0, high=1e6)
    samples: int = option(300, "pictures of each side that importance is measured on", low=1, high=100_000)


class SSD(Solved):
    """Dampening by importance."""

    id = "ssd"
    title = "SSD (selective synaptic dampening)"
    paper = "https://arxiv.org/abs/2308.07707"
    summary = "baseline: shrinks the weights that matter for what is forgotten more than for all data; no training"
    Options = SSDOptions
    contract_options: ClassVar[dict[str, Any]] = {"samples": 20}

    def solve(self, run: TrainingRun) -> Mapping[str, Tensor]:
        import torch

        sets, found = run.state, []
        for name, pool in (("all", Labelled.joined([sets.forget, sets.retain])), ("forget", sets.forget)):
            order = torch.randperm(len(pool), generator=run.ctx.generator(f"ssd:{name}"))[: run.options.samples]
            total, count = None, 0
            for row in picture_gradients(run, pool[order]):
                total, count = row.square() if total is None else total + row.square(), count + 1
            assert total is not None
            found.append(total / count)
        everything, forget = found
        values = run.adapters.values
        theta = torch.cat([part.detach().flatten() for part in values.values()])
        parts = dampened(theta, everything, forget, run.options.alpha, run.options.lam).split(
            [part.numel() for part in values.values()]
        )
        return {name: part.reshape(values[name].shape) for name, part in zip(values, parts, strict=True)}


def dampened(theta: Tensor, everything: Tensor, forget: Tensor, alpha: float, lam: float) -> Tensor:
    """Weights (p,) after dampening by the importances (p,) of all data and of what is forgotten."""
    import torch

    factor = (lam * everything / forget.clamp(min=torch.finfo(forget.dtype).tiny)).clamp(max=1.0)
    return torch.where(forget > alpha * everything, theta * factor, theta)


@hookimpl
def erase_methods() -> list[Baseline]:
    return [SSD()]
