"""Closed-form solutions of single concepts, each behind a gate that the prompts of its concept open."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from erase_plugins.artifacts.edit import Delta, Edit, LowRank
from erase_plugins.artifacts.gated import GATE, gated_lowrank
from erase_plugins.artifacts.statistics import Statistics
from erase_plugins.engine.context import RunContext
from erase_plugins.engine.gating import GateRecipe, make_gate
from erase_plugins.families.base import ModuleRef, Target
from erase_plugins.types import Concept

#: number in the manifest: share of a memory's energy that was cut, the largest of all concepts
CUT = "memory_cut"
#: statistics of one concept -> its change of every projection, and the share of energy that was cut
Memory = Callable[[Concept, Statistics], tuple[Sequence[LowRank], float]]


def gated_edit(
    statistics: Statistics, concepts: Sequence[Concept], memory: Memory, refs: Sequence[ModuleRef],
    recipe: GateRecipe, target: Target, ctx: RunContext,
) -> Edit:  # fmt: skip
    """One memory per concept, all solved alone, behind gates.

    Nothing is shared: a concept's memory is the same whatever else is erased, so memories of several artifacts are put
    side by side and one is taken out without touching the others.

    Args:
        statistics: of all concepts.
        concepts: in the order of their gates.
        memory: solves one concept; one change for every module of ``refs``.
        refs: projections that are changed.
        recipe: how gates are made.
        target: its text encoder is asked for the gates.
        ctx: notes, numbers, cancel.
    """
    found: list[Sequence[LowRank]] = []
    cut = 0.0
    for number, concept in enumerate(concepts, 1):
        changes, lost = memory(concept, alone(statistics, concept.text))
        found.append(changes)
        cut = max(cut, lost)
        ctx.step(number, len(concepts))
    ctx.count(CUT, round(cut, 4))
    members = [statistics.members[concept.text] for concept in concepts]
    gate = make_gate(
        target, [concept.text for concept in concepts], [phrases(member.facts) for member in members], concepts, recipe,
        ctx,
    )  # fmt: skip
    group: dict[str, Delta] = {GATE: gate}
    for place, ref in enumerate(refs):
        parts = [changes[place] for changes in found]
        owners = [number for number, part in enumerate(parts) for _ in range(part.rank)]
        whole = LowRank(torch.cat([part.A for part in parts]), torch.cat([part.B for part in parts], dim=1))
        group[ref.path] = gated_lowrank(whole, owners)
    return Edit(target.family.id, {target.family.denoiser: group})


def phrases(facts: Mapping[str, Any]) -> list[str]:
    """What means a concept: as it was asked for, and words that were found to mean the same."""
    return [*facts["phrases"], *facts["aliases"]]


def alone(statistics: Statistics, name: str) -> Statistics:
    """The statistics as if one concept had been collected by itself."""
    member = statistics.members[name]
    left_out = {word: rows for word, rows in statistics.left_out.items() if word in member.near}
    return replace(statistics, members={name: member}, left_out=left_out, sums=None, kept_sum=None)
