"""Closed-form edits inside the free space of what is retained, in float64: UCE's solve with an infinite weight on it.

With U (d x f) the directions in which retained rows hardly vary, erased rows C, guides S (columns) and invariant rows
N, the edit of a projection W is W (S - C) D with

    D = C^T U (U^T (C C^T + n/lam N N^T) U + n rho I)^-1 U^T

plus U^T H U inside the inverse where what is retained (Gram matrix H) also counts in the directions that are free. It
equals SPEED's published form (Li et al., ICLR 2026, arXiv 2503.07392) but needs one symmetric solve for all
layers. At lam = 0 the invariants' own directions leave U instead.
"""

from __future__ import annotations

import torch
from torch import Tensor

from erase_plugins.artifacts.closed_form import right_divide
from erase_plugins.errors import RequestError

#: share of the largest energy below which a direction of the invariants is rounding
_ROUNDING = 1e-12


def free_basis(H: Tensor, tau: float) -> Tensor:
    """Directions in which the retained rows have less than ``tau`` times their mean energy.

    Args:
        H: (d, d) Gram matrix of the retained rows; its scale does not matter.
        tau: share of tr(H) / d.

    Returns:
        (d, f) float64 with orthonormal columns; all directions where nothing is retained.
    """
    energy, vectors = torch.linalg.eigh(H.double())
    mean = float(energy.clamp_min(0).mean())
    basis: Tensor = vectors[:, energy < tau * mean] if mean > 0 else vectors
    return basis


def without_invariants(basis: Tensor, N: Tensor) -> Tensor:
    """The directions (d, f') of ``basis`` in which no invariant has a part; ``N`` is their (d, d) Gram matrix."""
    energy, vectors = torch.linalg.eigh(basis.T @ N.double() @ basis)
    if not energy.numel() or float(energy[-1]) <= 0:
        return basis
    left: Tensor = basis @ vectors[:, energy <= _ROUNDING * energy[-1]]
    return left


def free_map(
    G: Tensor, X: Tensor, basis: Tensor, N: Tensor, ridge: float, stiffness: float, soft: Tensor | None = None
) -> Tensor:
    """K (d, d) with W_new = W (I + K), from sums alone.

    Args:
        G: (d, d) sum of e c c^T over erased rows.
        X: (d, d) sum of e s c^T.
        basis: (d, f) from `free_basis`.
        N: (d, d) Gram matrix of the invariants.
        ridge: n rho, > 0.
        stiffness: n / lam; infinite takes the invariants' directions out.
        soft: (d, d) Gram matrix of rows that are held in the free directions too, as far as erasing lets them.

    Raises:
        RequestError: no direction is free, or the ridge is not positive.
    """
    basis, system = _system(G if soft is None else G.double() + soft, basis, N, ridge, stiffness)
    return right_divide((X.double() - G.double()) @ basis, system) @ basis.T


def free_factors(
    rows: Tensor, weights: Tensor, basis: Tensor, N: Tensor, ridge: float, stiffness: float, soft: Tensor | None = None
) -> Tensor:
    """D (n, d): the edit of a projection W is W (S - C) D.

    Args:
        rows: (n, d) erased rows.
        weights: (n,) scale e of each.
        basis, N, ridge, stiffness, soft: as in `free_map`.
    """
    C = rows.double()
    scaled = weights.double()[:, None] * C
    G = C.T @ scaled
    basis, system = _system(G if soft is None else G + soft, basis, N, ridge, stiffness)
    return right_divide(scaled @ basis, system) @ basis.T


def _system(G: Tensor, basis: Tensor, N: Tensor, ridge: float, stiffness: float) -> tuple[Tensor, Tensor]:
    if not ridge > 0:
        raise RequestError(f"rho gives a ridge of {ridge}; it must be positive")
    if stiffness == float("inf"):
        basis = without_invariants(basis, N)
    if not basis.shape[1]:
        raise RequestError(
            "what is retained and the invariants leave no direction to edit; raise tau or keep fewer prompts"
        )
    held = G.double() if stiffness == float("inf") else G.double() + stiffness * N.double()
    return basis, ridge * torch.eye(basis.shape[1], dtype=torch.float64) + basis.T @ held @ basis
