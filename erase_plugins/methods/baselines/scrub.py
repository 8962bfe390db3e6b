"""SCRUB: a student leaves its teacher on what is forgotten and stays with it on what is retained.

Kurmanji et al., NeurIPS 2023, arXiv 2302.09880. The teacher is the original model, T its temperature and
KL = T^2 KL(softmax(teacher / T) || softmax(student / T)), a batch mean. In the first ``max_epochs`` epochs steps
alternate: one raises KL on a forgotten batch, the next lowers ce CE + kl KL on a retained one; later only the second
kind. (One of the official codes first only raises, then only lowers.) The rate falls tenfold after epochs 3, 5 and 9.
At the start student and teacher agree, so the first step that raises KL has no gradient. Scores of the teacher are
computed once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from erase_plugins.hookspecs import hookimpl
from erase_plugins.options import option
from erase_plugins.training import Labelled, TrainingRun
from erase_plugins.training.baseline import Baseline, BaselineOptions, scores

if TYPE_CHECKING:
    from torch import Tensor

_FALLS = (3, 5, 9)


@dataclass(frozen=True)
class ScrubOptions(BaselineOptions):
    """Options of SCRUB."""

    lr: float = option(3e-3, "learning rate", low=0.0, high=10.0)
    temperature: float = option(4.0, "temperature of both models", low=1e-3, high=1e3)
    max_epochs: int = option(2, "epochs that also push away from the teacher", low=0, high=100_000)
    ce: float = option(0.99, "weight of the labels of what is retained", low=0.0, high=1e6)
    kl: float = option(0.001, "weight of the teacher on what is retained", low=0.0, high=1e6)

    def rate(self, epoch: int) -> float:
        """Learning rate of an epoch."""
        return super().rate(epoch) * 0.1 ** sum(epoch > fall for fall in _FALLS)


class Scrub(Baseline):
    """Away from the teacher on one side, with it on the other."""

    id = "scrub"
    title = "SCRUB"
    paper = "https://arxiv.org/abs/2302.09880"
    summary = "baseline: a student leaves its teacher on what is forgotten and stays with it on what is retained"
    Options = ScrubOptions

    def prepare(self, run: TrainingRun) -> Any:
        import torch

        sets, own = super().prepare(run), {}
        with torch.no_grad(), run.adapters.disabled():
            for name, pool in (("forget", sets.forget), ("retain", sets.retain)):
                own[name] = torch.cat([scores(run, pool[rows]) for rows in torch.arange(len(pool)).split(256)])
        return replace(sets, own=own)

    def loss(self, run: TrainingRun, step: int) -> Tensor:
        options, epoch = run.options, step // run.options.epoch_steps
        away = epoch < options.max_epochs and step % 2 == 0
        name = "forget" if away else "retain"
        pool = run.state.forget if away else run.state.retain
        rows = self.rows(run, name, pool, step)
        batch: Labelled = pool[rows]
        terms = scrub_terms(scores(run, batch), run.state.own[name][rows], batch.labels, options.temperature)
        return -terms["kl"] if away else options.ce * terms["ce"] + options.kl * terms["kl"]


def scrub_terms(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float) -> dict[str, Tensor]:
    """``ce`` and ``kl``, means over a batch, of scores (n, labels) and classes (n,)."""
    from torch.nn.functional import cross_entropy, kl_div

    told = (teacher / temperature).log_softmax(-1)
    said = (student / temperature).log_softmax(-1)
    divergence = kl_div(said, told, reduction="batchmean", log_target=True)
    return {"ce": cross_entropy(student, labels), "kl": temperature**2 * divergence}


@hookimpl
def erase_methods() -> list[Baseline]:
    return [Scrub()]
