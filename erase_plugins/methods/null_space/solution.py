"""The null-space solution of collected statistics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import inf

import torch
from torch import Tensor

from erase_plugins.artifacts.closed_form import exact_factors
from erase_plugins.artifacts.edit import Delta, Edit, LowRank
from erase_plugins.artifacts.free_space import free_basis, free_factors, free_map, without_invariants
from erase_plugins.artifacts.ledger import from_ledger, gram_sum
from erase_plugins.artifacts.solved import context_edit
from erase_plugins.artifacts.statistics import Statistics
from erase_plugins.artifacts.statistics_file import statistics_to_tensors
from erase_plugins.engine.context import RunContext
from erase_plugins.errors import ArtifactError, RequestError
from erase_plugins.families.base import Target
from erase_plugins.families.target import FamilyTraits

#: part of a row outside what is retained below which it cannot be told from it
_INSIDE = 1e-3
#: share of the way to its guide that is left, from which a user is warned
_LEFT = 0.3


def solved(statistics: Statistics, family: FamilyTraits) -> Edit:
    """One map for keys and values, or low-rank changes of all value projections with a common factor D."""
    problem = Problem(statistics)
    problem.check()
    if statistics.solver["projections"] == "both":
        A, B = exact_factors(problem.map())
        rows = sum(len(member.rows) for member in statistics.members.values() if member.rows is not None)
        if rows:  # what lies beyond is rounding
            A, B = A[:rows], B[:, :rows]
        return context_edit(A, B, statistics, family)
    modules = statistics.solver["modules"]
    ups = [member.extra["up"] * float(member.facts.get("strength", 1.0)) for member in statistics.members.values()]
    parts = torch.cat(ups, dim=1).split([int(size) for _, size in modules])
    D, parts = fewer(problem.factors(), parts)
    group: dict[str, Delta] = {
        str(name): LowRank(D.clone(), part.contiguous()) for (name, _), part in zip(modules, parts, strict=True)
    }
    tensors, facts = statistics_to_tensors(statistics)
    return Edit(family.id, {family.denoiser: group}, tensors, {"statistics": facts})


def memory(statistics: Statistics, weights: Sequence[Tensor], rank: int) -> tuple[list[LowRank], float]:
    """The change of every projection (outputs, d) float64 in the ``rank`` directions that move all of them most, and
    the share of the change's energy that is cut."""
    problem = Problem(statistics)
    problem.check()
    change = torch.cat(list(weights)) @ problem.map()
    energy, vectors = torch.linalg.eigh(change.T @ change)
    energy = energy.clamp_min(0)
    down = vectors[:, -rank:].T
    parts = (change @ down.T).float().split([len(weight) for weight in weights])
    changes = [LowRank(down.float().contiguous(), part.contiguous()) for part in parts]
    return changes, float(1 - energy[-rank:].sum() / energy.sum().clamp_min(1e-300))


def fewer(D: Tensor, ups: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """The same products U D, float32, with no more rows in D (n, d) than its rank where it has more than half of d."""
    if len(D) <= D.shape[1] // 2:
        return D.float(), list(ups)
    left, sizes, right = torch.linalg.svd(D, full_matrices=False)
    rank = max(int((sizes > 1e-7 * sizes[0]).sum()), 1)
    back = left[:, :rank] * sizes[:rank]
    return right[:rank].float().contiguous(), [(part.double() @ back).float() for part in ups]


class Problem:
    """What the solve is made of: U, the Gram matrix of the invariants, the ridge term and the invariants' weight."""

    def __init__(self, statistics: Statistics) -> None:
        solver, self.statistics = statistics.solver, statistics
        self.G, self.X = statistics.erased_grams()
        H = statistics.kept_gram()
        self.basis = free_basis(H, float(solver["tau"]))
        soft = float(solver.get("soft", 0.0))  # earlier files have none
        self.soft = H * (soft * float(self.G.trace()) / float(H.trace())) if soft and H.any() else None
        self.N = invariants(statistics)
        self.ridge = float(solver["rho"]) * float(self.G.trace()) / statistics.width
        lam = float(solver["lam"])
        self.stiffness = len(statistics.members) / lam if lam else inf

    def check(self) -> None:
        """Refuses what cannot be erased.

        Raises:
            RequestError: no direction is free, or a concept lies inside what is retained; names it.
        """
        if not without_invariants(self.basis, self.N).shape[1]:
            raise RequestError(
                "what is retained and the invariants leave no direction to edit; raise tau or keep fewer prompts"
            )
        for name, member in self.statistics.members.items():
            if member.rows is None:
                continue
            rows = member.rows.double()
            if float(((rows @ self.basis).norm(dim=1) / rows.norm(dim=1)).max()) < _INSIDE:
                raise RequestError(
                    f"'{name}' lies inside what is retained: it is in your list of what to keep or cannot be told from "
                    "it; keep less, raise tau, or set tokens=window"
                )

    def map(self) -> Tensor:
        """K (d, d) with W_new = W (I + K)."""
        return free_map(self.G, self.X, self.basis, self.N, self.ridge, self.stiffness, self.soft)

    def factors(self) -> Tensor:
        """D (rows of all members, d)."""
        members = list(self.statistics.members.values())
        rows = [member.pair()[0] for member in members]
        weights = torch.cat(
            [torch.full((len(part),), member.weight) for part, member in zip(rows, members, strict=True)]
        )
        return free_factors(torch.cat(rows), weights, self.basis, self.N, self.ridge, self.stiffness, self.soft)


def invariants(statistics: Statistics) -> Tensor:
    """Gram matrix (d, d) of what must not move: leading directions of the empty prompt, all rows of revoked concepts.

    Raises:
        ArtifactError: the file keeps sums of kept prompts only.
    """
    total = torch.zeros(statistics.width, statistics.width, dtype=torch.float64)
    for name in ("", *statistics.revoked):
        rows = statistics.keep.get(name)
        if rows is None:
            raise ArtifactError(
                "the file keeps no rows of what must not move, since too many prompts are kept; run the method again"
            )
        rows = rows.double()
        if not name:
            _, sizes, right = torch.linalg.svd(rows, full_matrices=False)
            count = int(statistics.solver["invariants"])
            rows = (sizes[:count, None] / len(rows) ** 0.5) * right[:count]
        total += rows.T @ rows
    return total


def on_safe_span(statistics: Statistics) -> Statistics:
    """Every concept becomes its projection on the leading directions of the retained words.

    Words that mean the same as this concept are left out, those of other concepts are not, so that erasing together and
    merging afterwards are the same.
    """
    assert statistics.block is not None
    weight, members = float(statistics.block_facts["weight"]), {}
    for name, member in statistics.members.items():
        rows, _ = member.pair()
        own = [statistics.left_out[word] for word in member.near if word in statistics.left_out]
        block = statistics.block - gram_sum(((part, None) for part in own), weight) if own else statistics.block
        free = free_basis(from_ledger(block), float(statistics.solver["safe"]))
        guides = rows.double() - (rows.double() @ free) @ free.T
        facts = {**member.facts, "guide": "what it shares with the retained words"}
        members[name] = replace(member, guides=guides.float().contiguous(), facts=facts)
    return replace(statistics, members=members, sums=None)


def values_of(statistics: Statistics, target: Target) -> Statistics:
    """The statistics with what the value projections of ``target`` make of the way to the guides, row by row."""
    if statistics.solver["projections"] != "values":
        return statistics
    weights = torch.cat([target.weight(ref).cpu().double() for ref in target.modules("cross_v")])
    members = {}
    for name, member in statistics.members.items():
        rows, guides = member.pair()
        way = (guides.double() - rows.double()) / float(member.facts.get("strength", 1.0) or 1.0)
        members[name] = replace(member, extra={**member.extra, "up": (weights @ way.T).float().contiguous()})
    return replace(statistics, members=members)


def tell(statistics: Statistics, ctx: RunContext) -> None:
    """Counts the free directions and how far kept rows move; warns of a concept that goes little of its way."""
    problem = Problem(statistics)
    ctx.count("free_directions", problem.basis.shape[1])
    K, H = problem.map(), statistics.kept_gram()
    moved = float(((K @ H) * K).sum().clamp_min(0)) / max(float(H.trace()), 1e-300)
    ctx.count("kept_rows_change", round(moved**0.5, 4))
    for name, member in statistics.members.items():
        rows, guides = (part.double() for part in member.pair())
        way = guides - rows
        left = float((way - rows @ K.T).norm() / way.norm().clamp_min(1e-300))
        if left > _LEFT:
            ctx.warn(
                f"{name}: {left:.0%} of the way to what it becomes is left, the rest would disturb what is retained; "
                "keep less, raise tau or lower rho"
            )
