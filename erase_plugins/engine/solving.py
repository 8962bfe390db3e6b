"""The joint solution of collected statistics as an edit; shared by the methods that map rows to guides."""

from __future__ import annotations

from torch import Tensor

from erase_plugins.artifacts.closed_form import best_factors, exact_factors, solve_map
from erase_plugins.artifacts.edit import Edit
from erase_plugins.artifacts.solved import context_edit
from erase_plugins.artifacts.statistics import Statistics


def joint_map(statistics: Statistics) -> Tensor:
    """The map K (d, d) of all members in float64.

    Where a vocabulary is kept, the weights of what is kept are those against one erased concept: they grow with their
    number, else what is kept would give way to their sum.

    ``statistics.solver`` gives ``lam`` (absolute ridge term) or ``lam_share`` (in units of the mean diagonal of the
    whole system), and ``rho`` if kept rows are to be weighed so that their energy is rho times that of the erased rows.
    """
    solver = statistics.solver
    (G, X), H = statistics.erased_grams(), statistics.kept_gram(len(statistics.members))
    rho = solver.get("rho")
    if rho is not None:
        H = H * (rho * float(G.trace()) / max(float(H.trace()), 1e-300))
    lam = solver.get("lam")
    if lam is None:
        lam = solver["lam_share"] * float((G + H).trace()) / statistics.width
    return solve_map(G, X, H, lam)


def joint_edit(statistics: Statistics, family: str) -> Edit:
    """One context map for all members, at most of the rank that ``statistics.solver`` gives."""
    K, rank = joint_map(statistics), statistics.solver.get("rank")
    if rank is not None and statistics.sigma is not None:
        A, B, error = best_factors(K, statistics.sigma, rank)
    else:
        (A, B), error = exact_factors(K), 0.0
        rows = sum(len(member.rows) for member in statistics.members.values() if member.rows is not None)
        if rows:  # what lies beyond is rounding
            A, B = A[:rows], B[:, :rows]
    return context_edit(A, B, statistics, family, error)
