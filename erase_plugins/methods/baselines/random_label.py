"""Two baselines that teach wrong labels for what is forgotten: random ones, and with a mask of salient weights.

Random label (RL; Golatkar et al., CVPR 2020, arXiv 1911.04933): labels of the forgotten pictures are drawn uniformly
from all classes, the true one too, anew in each epoch; CE on a mixture of them and of what is retained. SalUn (Fan et
al., ICLR 2024, arXiv 2310.12508) changes only the share of weights with the largest gradient of CE on what is
forgotten, by one ranking over all of them: g = |sum over batches of the gradient of the batch mean|. The other weights
stay to the last bit, weight decay or not (one of the official codes lets decay move them).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from erase_plugins.hookspecs import hookimpl
from erase_plugins.options import option
from erase_plugins.training import Labelled, TrainingRun
from erase_plugins.training.baseline import Baseline, BaselineOptions, error, full_only
from erase_plugins.training.labelled import Sets
from erase_plugins.types import EraseRequest

if TYPE_CHECKING:
    from torch import Tensor

    from erase_plugins.families.base import ModelSpec


class RandomLabel(Baseline):
    """Random labels for what is forgotten."""

    id = "random-label"
    title = "Random labels (RL)"
    paper = "https://arxiv.org/abs/1911.04933"
    summary = "baseline: trains on random labels for what is forgotten, mixed with what is retained"

    def pass_over(self, sets: Sets) -> int:
        return len(sets.forget) + len(sets.retain)

    def loss(self, run: TrainingRun, step: int) -> Tensor:
        import torch

        forget, retain = run.state.forget, run.state.retain
        generator = run.ctx.generator(f"labels:{step // run.options.epoch_steps}")
        labels = torch.randint(len(run.target.classifier.labels), (len(forget),), generator=generator)
        pool = Labelled.joined([Labelled(forget.pictures, labels), retain])
        return error(run, self.drawn(run, "mixture", pool, step))


@dataclass(frozen=True)
class SalUnOptions(BaselineOptions):
    """Options of SalUn."""

    share: float = option(0.5, "share of the weights that may change", low=0.0, high=1.0)


class SalUn(RandomLabel):
    """Random labels, on salient weights only."""

    id = "salun"
    title = "SalUn (saliency unlearning)"
    paper = "https://arxiv.org/abs/2310.12508"
    summary = "baseline: random labels for what is forgotten; only weights that matter for it change (sparse file)"
    produces = frozenset({"sparse"})
    Options = SalUnOptions

    def settle(self, options: Any, request: EraseRequest, info: ModelSpec) -> Any:
        full_only(self, options)
        return super().settle(options, request, info)

    def prepare(self, run: TrainingRun) -> Any:
        sets = super().prepare(run)
        run.adapters.mask(salient(gradients(run, sets.forget), run.options.share))
        return sets


def gradients(run: TrainingRun, pool: Labelled) -> dict[str, Tensor]:
    """Sum over batches of the gradient of the batch-mean cross-entropy, by parameter; 0 where there is none."""
    import torch

    values = run.adapters.values
    total = {name: torch.zeros_like(part) for name, part in values.items()}
    for rows in torch.arange(len(pool)).split(run.options.batch):
        found = torch.autograd.grad(error(run, pool[rows]), list(values.values()), allow_unused=True)
        for name, part in zip(values, found, strict=True):
            if part is not None:
                total[name] += part
    return total


def salient(grads: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """Masks of the ``int(share * N)`` values with the largest magnitude over all tensors together."""
    import torch

    flat = torch.cat([part.abs().flatten() for part in grads.values()])
    chosen = torch.zeros(len(flat), dtype=torch.bool, device=flat.device)
    chosen[flat.topk(int(share * len(flat))).indices] = True
    sizes = [part.numel() for part in grads.values()]
    return {name: mask.reshape(grads[name].shape) for name, mask in zip(grads, chosen.split(sizes), strict=True)}


@hookimpl
def erase_methods() -> list[Baseline]:
    return [RandomLabel(), SalUn()]
