"""Two baselines that only go on training on what is retained: fine-tuning, and with a push to sparse weights.

Fine-tuning (FT) lowers CE on the retained pictures and hopes that the others are forgotten. l1-sparse adds
a_e ||theta||_1 over all parameters, norms included, with a_e = alpha (1 - e / (E - E0)) and 0 from epoch E - E0 on
(Jia et al., NeurIPS 2023, arXiv 2304.04934).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from erase_plugins.hookspecs import hookimpl
from erase_plugins.options import option
from erase_plugins.training import Labelled, TrainingRun
from erase_plugins.training.baseline import Baseline, BaselineOptions, Retaining, error

if TYPE_CHECKING:
    from torch import Tensor


class FineTune(Retaining):
    """Cross-entropy on what is retained."""

    id = "finetune"
    title = "Fine-tuning on what is retained (FT)"
    paper = "https://arxiv.org/abs/2304.04934"
    summary = "baseline: trains a classifier on what is retained only, and hopes that the rest is forgotten"


@dataclass(frozen=True)
class L1Options(BaselineOptions):
    """Options of l1-sparse."""

    alpha: float = option(1e-3, "weight of the sum of absolute weights in the first epoch", low=0.0, high=10.0)
    quiet: int = option(2, "epochs at the end without it", low=0, high=100_000)

    def weight(self, epoch: int) -> float:
        """Weight of the norm in an epoch."""
        length = self.epochs - self.quiet
        return self.alpha * (1 - epoch / length) if epoch < length else 0.0


class L1Sparse(Retaining):
    """Fine-tuning with an l1 norm that fades out."""

    id = "l1-sparse"
    title = "l1-sparse fine-tuning"
    paper = "https://arxiv.org/abs/2304.04934"
    summary = "baseline: fine-tuning on what is retained, with a fading pull of all weights to 0"
    Options = L1Options

    def step_loss(self, run: TrainingRun, step: int, forget: Labelled, retain: Labelled) -> Tensor:
        weight = run.options.weight(step // run.options.epoch_steps)
        loss = error(run, retain)
        return loss + weight * absolute(run.adapters.parameters()) if weight else loss


def absolute(parts: Iterable[Tensor]) -> Tensor:
    """Sum of the absolute values of all tensors."""
    import torch

    return torch.stack([part.abs().sum() for part in parts]).sum()


@hookimpl
def erase_methods() -> list[Baseline]:
    return [FineTune(), L1Sparse()]
