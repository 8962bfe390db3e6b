"""UCE's debiasing: push a concept's rows along attribute directions until the attributes come out equally often.

Targets are s = c + sum_i alpha_i * a_i, where a_i is the mean row of "<attribute> <concept>" less the concept's own
(UCE, section 4.2). The weights alpha_i follow the measured ratios: more for an attribute that is too rare.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from erase_plugins.artifacts.statistics import Statistics
from erase_plugins.engine.context import RunContext
from erase_plugins.families.base import Target

#: how far one round moves alpha per unit of missing share
_STEP = 1.0
#: close enough: largest deviation from equal shares
_ENOUGH = 0.05


def balance(
    statistics: Statistics, options: Any, target: Target, ctx: RunContext, solve: Callable[[Statistics], Any]
) -> Statistics:
    """Statistics whose guides balance the attributes of every member.

    Args:
        statistics: with the erased rows as members.
        options: attributes, alpha, rounds.
        target: gives attribute rows.
        ctx: measures the shares (``ctx.shares``) where a judge knows the attributes.
        solve: makes an edit of statistics.
    """
    names = list(options.attributes)
    alphas = {name: [options.alpha] * len(names) for name in statistics.members}
    rows = {name: member.rows.double() for name, member in statistics.members.items() if member.rows is not None}
    directions = {name: _directions(name, names, target, len(part)) for name, part in rows.items()}

    def current() -> Statistics:
        members = {}
        for name, member in statistics.members.items():
            guides = rows[name]
            for weight, direction in zip(alphas[name], directions[name], strict=True):
                guides = guides + weight * direction
            facts = {**member.facts, "guide": member.concept, "attributes": names, "alpha": alphas[name]}
            members[name] = replace(member, guides=guides.float().contiguous(), facts=facts)
        return replace(statistics, members=members)

    best, best_gap = current(), float("inf")
    for number in range(options.rounds if ctx.shares is not None else 0):
        trial = current()
        edit, worst = solve(trial), 0.0
        for name in statistics.members:
            assert ctx.shares is not None
            shares = ctx.shares(edit, name, names)
            gaps = [1 / len(names) - share for share in shares]
            worst = max(worst, *(abs(gap) for gap in gaps))
            alphas[name] = [alpha + _STEP * gap for alpha, gap in zip(alphas[name], gaps, strict=True)]
        ctx.step(number + 1, options.rounds, imbalance=worst)
        if worst < best_gap:
            best, best_gap = trial, worst
        if worst <= _ENOUGH:
            break
    if ctx.shares is None:
        ctx.note("no judge knows the attributes: every attribute gets the same weight alpha, nothing was measured")
    return best


def _directions(concept: str, attributes: list[str], target: Target, count: int) -> list[Tensor]:
    """One (count, dim) direction per attribute: what the attribute's word adds to the rows behind the concept."""
    cond = target.encode([concept, *(f"{attribute} {concept}" for attribute in attributes)])
    rows = [cond.embeds[i, last:].cpu().double().mean(0) for i, last in enumerate(cond.last)]
    return [(row - rows[0]).expand(count, -1) for row in torch.stack(rows[1:])]
