"""One null-space solution per concept, each behind a gate that the prompts of its concept open."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from erase_plugins.artifacts.edit import Delta, Edit, LowRank
from erase_plugins.artifacts.gated import GATE, gated_lowrank
from erase_plugins.artifacts.statistics import Member, Statistics
from erase_plugins.engine.context import RunContext
from erase_plugins.engine.gating import GateRecipe, make_gate
from erase_plugins.families.base import Target
from erase_plugins.methods.null_space.solution import Problem
from erase_plugins.types import Concept

#: number in the manifest: share of a memory's energy that was cut, the largest of all concepts
CUT = "memory_cut"


def gated_edit(
    statistics: Statistics, concepts: tuple[Concept, ...], rank: int, recipe: GateRecipe, target: Target,
    ctx: RunContext,
) -> Edit:  # fmt: skip
    """Memories of at most ``rank`` directions, one per concept and all solved alone, behind gates.

    Nothing is shared: a concept's memory is the same whatever else is erased, so memories of several artifacts are put
    side by side and one is taken out without touching the others.

    Args:
        statistics: of all concepts.
        concepts: in the order of their gates.
        rank: directions of one memory; it keeps those that move its projections most.
        recipe: how gates are made.
        target: its projections are changed.
        ctx: notes, numbers, cancel.
    """
    refs = target.modules("cross_v" if statistics.solver["projections"] == "values" else "cross_kv")
    weights = torch.cat([target.weight(ref).double().cpu() for ref in refs])
    downs, ups, owners, cut = [], [], [], 0.0
    for number, concept in enumerate(concepts):
        down, up, lost = memory(alone(statistics, concept.text), weights, rank)
        downs.append(down)
        ups.append(up)
        owners += [number] * len(down)
        cut = max(cut, lost)
        ctx.step(number + 1, len(concepts))
    ctx.count(CUT, round(cut, 4))
    A = torch.cat(downs).float().contiguous()
    parts = torch.cat(ups, dim=1).split([ref.shape[0] for ref in refs])
    members = [statistics.members[concept.text] for concept in concepts]
    gate = make_gate(
        target, [concept.text for concept in concepts], [phrases(member.facts) for member in members], concepts, recipe,
        ctx,
    )  # fmt: skip
    group: dict[str, Delta] = {GATE: gate}
    for ref, part in zip(refs, parts, strict=True):
        group[ref.path] = gated_lowrank(LowRank(A.clone(), part.float().contiguous()), owners)
    return Edit(target.family.id, {target.family.denoiser: group})


def phrases(facts: Mapping[str, Any]) -> list[str]:
    """What means a concept: as it was asked for, and words that were found to mean the same."""
    return [*facts["phrases"], *facts["aliases"]]


def alone(statistics: Statistics, name: str) -> Statistics:
    """The statistics as if one concept had been collected by itself."""
    member: Member = statistics.members[name]
    left_out = {word: rows for word, rows in statistics.left_out.items() if word in member.near}
    return replace(statistics, members={name: member}, left_out=left_out, sums=None, kept_sum=None)


def memory(statistics: Statistics, weights: Tensor, rank: int) -> tuple[Tensor, Tensor, float]:
    """Factors (r, d) and (outputs, r) of the change of stacked projections ``weights`` (outputs, d), float64, and the
    share of the change's energy that is cut."""
    problem = Problem(statistics)
    problem.check()
    change = weights @ problem.map()
    energy, vectors = torch.linalg.eigh(change.T @ change)
    energy = energy.clamp_min(0)
    down = vectors[:, -rank:].T
    return down, change @ down.T, float(1 - energy[-rank:].sum() / energy.sum().clamp_min(1e-300))
