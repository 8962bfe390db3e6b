"""Fusing LoRAs of keys and values that belong to different concepts into one, in closed form (MACE, section 3.3).

One weight acts like each concept's own LoRA u_i v_i^T on that concept's rows E_i and like the common weight elsewhere:

    W* - W' = sum_i u_i v_i^T E_i^T E_i B^-1,    B = lam I + sum_i E_i^T E_i + a H

with H the Gram matrix of what is kept. The rank of the change is at most the number of concepts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from erase_plugins.artifacts.edit import LowRank
from erase_plugins.errors import NotFiniteError


@dataclass(frozen=True, eq=False)
class OwnChange:
    """A concept's LoRA of rank 1 on many projections.

    Attributes:
        rows: (n, dim) rows of its prompts, or fewer with the same Gram matrix.
        down: (projections, dim), v of every projection.
        up: one (out,) per projection, u.
    """

    rows: Tensor
    down: Tensor
    up: Sequence[Tensor]


def fuse(changes: Sequence[OwnChange], kept: Tensor, lam: float, keep_scale: float) -> list[LowRank]:
    """The fused change of every projection, of exact rank at most ``len(changes)``.

    Args:
        changes: one per concept, over the same projections.
        kept: (dim, dim) Gram matrix of the kept rows.
        lam: ridge term.
        keep_scale: weight of ``kept``.

    Raises:
        NotFiniteError: the system is not positive definite (lam=0 with few rows).
    """
    grams = [change.rows.double().T @ change.rows.double() for change in changes]
    system = lam * torch.eye(len(kept), dtype=torch.float64) + keep_scale * kept.double() + torch.stack(grams).sum(0)
    factor, info = torch.linalg.cholesky_ex(system)
    if int(info):
        raise NotFiniteError("the fusion has no unique solution; raise fuse_lam or keep more")
    down = [
        torch.cholesky_solve(gram @ change.down.double().T, factor).T
        for gram, change in zip(grams, changes, strict=True)
    ]
    return [
        LowRank(
            torch.stack([part[place] for part in down]).float().contiguous(),
            torch.stack([change.up[place].float() for change in changes], 1).contiguous(),
        )
        for place in range(len(changes[0].up))
    ]
