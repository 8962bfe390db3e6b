"""The joint solution of collected statistics as an edit; shared by the methods that map rows to guides."""

from __future__ import annotations

import torch
from torch import Tensor

from erase_plugins.artifacts.closed_form import best_factors, exact_factors, right_divide, solve_in_span
from erase_plugins.artifacts.edit import ContextMap, Edit
from erase_plugins.artifacts.solved import context_edit
from erase_plugins.artifacts.statistics import Statistics
from erase_plugins.engine.context import RunContext
from erase_plugins.errors import RequestError
from erase_plugins.families.target import FamilyTraits

#: relative error that a map of many random phrasings may have
TRIM = 0.01
#: from this width on no (d, d) matrix is formed where all rows are known
WIDE = 4096
#: change of kept rows from which a user is warned
FAR = 0.15


def joint_map(statistics: Statistics) -> Tensor:
    """The map K (d, d) of all members in float64."""
    change, system = joint_system(statistics)
    return right_divide(change, system)


def joint_system(statistics: Statistics) -> tuple[Tensor, Tensor]:
    """X - G and the regularised system of all members, both (d, d) float64; their quotient is the map.

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
    if not lam > 0:
        raise RequestError(f"lam={lam} must be positive, otherwise the system has no unique solution")
    return X - G, lam * torch.eye(statistics.width, dtype=torch.float64) + G + H


def few_factors(statistics: Statistics) -> tuple[Tensor, Tensor] | None:
    """The map of `joint_map` as factors A (r, d) and B (d, r) where all rows are known and few; None elsewhere.

    All that the map gives lies in the span of guides less erased rows, so what is solved and decomposed has as many
    rows as those.
    """
    pairs = [(item.rows, item.guides) for item in statistics.members.values()]
    moved = [guides - rows for rows, guides in pairs if rows is not None and guides is not None]
    if len(moved) < len(pairs) or 2 * sum(len(part) for part in moved) > statistics.width:
        return None
    Q, _ = torch.linalg.qr(torch.cat(moved).double().T)
    change, system = joint_system(statistics)
    A, B = exact_factors(right_divide(Q.T @ change, system))
    return A, (Q @ B).contiguous()


def joint_edit(statistics: Statistics, family: FamilyTraits) -> Edit:
    """One context map for all members, at most of the rank that ``statistics.solver`` gives."""
    rank, few = statistics.solver.get("rank"), wide_factors(statistics) if statistics.width > WIDE else None
    if few is None and rank is None and not spread(statistics):
        few = few_factors(statistics)
    if few is not None:
        return context_edit(*few, statistics, family)
    K = joint_map(statistics)
    if rank is not None and statistics.sigma is not None:
        A, B, error = best_factors(K, statistics.sigma, rank)
    elif spread(statistics):
        A, B, error = trimmed_factors(K, statistics)
    else:
        (A, B), error = exact_factors(K), 0.0
        known = [member.rows for member in statistics.members.values() if member.rows is not None]
        if len(known) == len(statistics.members):  # what lies beyond is rounding
            rows = sum(map(len, known))
            A, B = A[:rows], B[:, :rows]
    return context_edit(A, B, statistics, family, error)


def wide_factors(statistics: Statistics) -> tuple[Tensor, Tensor] | None:
    """The map of `joint_map` as factors A (r, d) and B (d, r), from the rows alone; None where those are not all known.

    None too where a cap on the rank asks for the energy of the layers.
    """
    solver, kept = statistics.solver, statistics.kept_rows
    pairs = [(item.rows, item.guides, item.weight) for item in statistics.members.values()]
    if kept is None or solver.get("rank") is not None or any(rows is None for rows, _, _ in pairs):
        return None
    C = torch.cat([rows for rows, _, _ in pairs if rows is not None]).double()
    S = torch.cat([guides for _, guides, _ in pairs if guides is not None]).double()
    e = torch.cat([torch.full((len(rows),), weight) for rows, _, weight in pairs if rows is not None]).double()
    p = torch.full((len(kept),), statistics.keep_weight).double()
    erased, held = float((e * C.pow(2).sum(1)).sum()), float((p * kept.double().pow(2).sum(1)).sum())
    rho, lam = solver.get("rho"), solver.get("lam")
    if rho is not None:
        p, held = p * (rho * erased / max(held, 1e-300)), rho * erased
    if lam is None:
        lam = solver["lam_share"] * (erased + held) / statistics.width
    return solve_in_span(C, S, e, kept, p, lam)


def spread(statistics: Statistics) -> bool:
    """Whether a concept is told by far more rows than a map has directions: a style in many random phrasings."""
    return any(member.facts.get("fillers") for member in statistics.members.values())


def trimmed_factors(K: Tensor, statistics: Statistics) -> tuple[Tensor, Tensor, float]:
    """Factors of K without the directions in which it hardly moves any row that it was made of.

    Rows of many random phrasings fill the whole space, so the exact map has full rank, most of it for rounding-sized
    changes.

    Returns:
        A (r, d), B (d, r), and the relative error over all erased and kept rows, at most ``TRIM``.
    """
    (G, _), H = statistics.erased_grams(), statistics.kept_gram(len(statistics.members))
    energy, vectors = torch.linalg.eigh(K @ (G + H) @ K.T)
    energy, vectors = energy.flip(0).clamp_min(0), vectors.flip(1)
    total = float(energy.sum())
    left = (total - energy.cumsum(0)).clamp_min(0)
    rank = int((left > TRIM**2 * total).sum()) + 1
    U = vectors[:, :rank].contiguous()
    error = (float(left[rank - 1]) / total) ** 0.5 if total else 0.0
    return (U.T @ K).contiguous(), U, error


def tell_kept(edit: Edit, statistics: Statistics, ctx: RunContext) -> None:
    """Measures in closed form how far the edit moves the rows of what is kept, and warns where that is far.

    The number is the root mean square change of all kept rows (vocabulary and named prompts), relative to the rows
    themselves. It needs no picture.
    """
    ((_, _, change),) = list(edit.items())
    if not isinstance(change, ContextMap):
        return
    A, B, rows = change.A.double(), change.B.double(), statistics.kept_rows if statistics.width > WIDE else None
    if rows is not None:
        moved, whole = (rows.double() @ A.T @ B.T).pow(2).sum(), rows.double().pow(2).sum()
    else:
        H = statistics.kept_gram()
        moved, whole = ((A @ H @ A.T) * (B.T @ B)).sum(), H.trace()  # trace of K H K^T with K = B A, in the small space
    share = (max(float(moved), 0.0) / max(float(whole), 1e-300)) ** 0.5
    ctx.count("kept_rows_change", round(share, 4))
    if share > FAR:
        ctx.warn(
            f"the text rows of what is kept move by {share:.0%} on average: other pictures will change too; name "
            "what to keep, raise vocabulary_scale, or lower erase_scale"
        )
