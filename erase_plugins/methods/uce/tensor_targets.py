"""UCE's "tensor" technique: the guide's values without their part along the erased concept's values.

For layer weight W, erased rows C_k and guide rows S_k of one concept (columns): U = W C_k / |W C_k|_F and
V = W S_k - <U, W S_k> U. Targets depend on the layer, so there is no common map, but the left factor D is shared:
Delta W = e (V - W C) D with D = C^T B^-1.
"""

from __future__ import annotations

import torch

from erase_plugins.artifacts.closed_form import solve_factors
from erase_plugins.artifacts.edit import Delta, Edit, LowRank
from erase_plugins.artifacts.statistics import Statistics
from erase_plugins.families.base import Target


def tensor_edit(statistics: Statistics, lam: float, target: Target) -> Edit:
    """Low-rank changes of every key and value projection; keeps no statistics, since targets depend on the layer."""
    members = [item for item in statistics.members.values() if item.rows is not None and item.guides is not None]
    pairs = [(item.rows.double(), item.guides.double()) for item in members]  # type: ignore[union-attr]
    C = torch.cat([rows for rows, _ in pairs])
    S = torch.cat([guides for _, guides in pairs])
    weights = torch.cat([torch.full((len(item.rows),), item.weight, dtype=torch.float64) for item in members])  # type: ignore[arg-type]
    A, _ = solve_factors(C, S, weights, statistics.kept_gram(len(members)), lam)
    deltas: dict[str, dict[str, Delta]] = {}
    for ref in target.readers():
        W = target.weight(ref).cpu().double()
        values = torch.cat([tensor_values(W, rows.T, guides.T) for rows, guides in pairs], dim=1)
        up = values - W @ C.T
        deltas.setdefault(ref.component, {})[ref.weight] = LowRank(A.float().clone(), up.float().contiguous())
    return Edit(target.family.id, deltas)


def tensor_values(W: torch.Tensor, C: torch.Tensor, S: torch.Tensor) -> torch.Tensor:
    """Target values V (out, n) for one concept; C and S are (dim, n)."""
    old = W @ C
    unit = old / old.norm()
    new = W @ S
    return new - (unit * new).sum() * unit
