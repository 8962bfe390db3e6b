"""Influence unlearning: one Newton step towards the weights that training without the forgotten would have found.

Izzo et al. 2021; in the form of Jia et al., NeurIPS 2023, arXiv 2304.04934:

    theta + alpha H^-1 v,   v = (1/n) [sum_forget grad l - m / (n - m) sum_retain grad l],   H = lam I + mean g g^T

over per-picture gradients g of what is retained. With G (N, p) of gradients / sqrt(N), H^-1 v =
[v - G^T (lam I + G G^T)^-1 G v] / lam, a solve of N x N. The official codes use a recursion whose correction to v is
always parallel to the first retained gradient, so what they publish is a scaled gradient step; not copied.

The change is linear in ``alpha``: the file may be used at any strength.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from erase_plugins.hookspecs import hookimpl
from erase_plugins.options import option
from erase_plugins.training import TrainingRun
from erase_plugins.training.baseline import Baseline, Solved, SolvedOptions, flat_gradient, picture_gradients

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class InfluenceOptions(SolvedOptions):
    """Options of influence unlearning."""

    alpha: float = option(0.01, "length of the step; 1 where the curvature is known well", low=-1e6, high=1e6)
    damping: float = option(1e-2, "what is added to the diagonal of H", low=1e-12, high=1e6)
    samples: int = option(200, "retained pictures that H is made of", low=1, high=100_000)


class Influence(Solved):
    """One damped Newton step."""

    id = "influence"
    title = "Influence unlearning (IU)"
    paper = "https://arxiv.org/abs/2304.04934"
    summary = "baseline: one damped Newton step away from what is forgotten, solved exactly on a sample"
    Options = InfluenceOptions
    contract_options: ClassVar[dict[str, Any]] = {"samples": 20}

    def solve(self, run: TrainingRun) -> Mapping[str, Tensor]:
        import torch

        options, sets = run.options, run.state
        n, m = len(sets.forget) + len(sets.retain), len(sets.forget)
        sums = [flat_gradient(run, pool) for pool in (sets.forget, sets.retain)]
        v = (sums[0] - m / (n - m) * sums[1]) / n
        order = torch.randperm(len(sets.retain), generator=run.ctx.generator("influence"))[: options.samples]
        rows = torch.stack(list(picture_gradients(run, sets.retain[order])))
        change = options.alpha * newton(rows, v, options.damping)
        values = run.adapters.values
        parts = change.split([part.numel() for part in values.values()])
        return {name: values[name].detach() + part.reshape(values[name].shape).to(values[name].dtype)
                for name, part in zip(values, parts, strict=True)}  # fmt: skip


def newton(rows: Tensor, v: Tensor, damping: float) -> Tensor:
    """(damping I + rows^T rows / N)^-1 v for gradients (N, p), by a solve of N x N in float64."""
    import torch

    G = rows.double() / len(rows) ** 0.5
    v = v.double()
    gram = G @ G.T
    gram.diagonal().add_(damping)
    inner = torch.cholesky_solve((G @ v)[:, None], torch.linalg.cholesky(gram))[:, 0]
    return (v - G.T @ inner) / damping


@hookimpl
def erase_methods() -> list[Baseline]:
    return [Influence()]
