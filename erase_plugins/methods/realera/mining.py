"""Neighbours of a concept for closed-form methods: random ones from a shell around its embedding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from erase_plugins.artifacts.statistics import Statistics
from erase_plugins.engine.collect import Recipe
from erase_plugins.engine.prompt_templates import paired_rows
from erase_plugins.families.base import Target
from erase_plugins.methods.realera.neighbor_sampling import Shell


def with_neighbours(
    statistics: Statistics,
    shell: Shell,
    recipe: Recipe,
    target: Target,
    generator: Callable[[str], torch.Generator],
    near: int,
    far: int,
) -> Statistics:
    """Statistics in which neighbours go where their concept goes and points outside the shell stay.

    A set of neighbours weighs as much as the concept itself, however many there are; the outside points of a concept
    weigh together as much as one kept prompt. They are rows that become themselves, so revoking the concept takes them
    out as well.

    Args:
        statistics: from `collect`.
        shell, recipe: where neighbours lie, which rows stand for a phrase.
        target: encodes.
        generator: named randomness (`RunContext.generator`).
        near, far: draws per phrase of each concept.
    """
    members = dict(statistics.members)
    for name, member in statistics.members.items():
        cond = target.encode(member.facts["phrases"])
        guide = target.encode([member.facts["guide"]])
        draw = generator(f"shell rows {name}")
        pairs = [member.pair()]
        for moved in [shell.near(cond, draw) for _ in range(near)]:
            found = [paired_rows(moved, guide, place, 0, recipe.tokens) for place in range(len(moved.last))]
            pairs += [_weighed(rows, guides, 1.0 / near) for rows, guides in found]
        for moved in [shell.far(cond, draw) for _ in range(far)]:
            rows = moved.embeds[:, 1:].cpu().flatten(0, 1)
            pairs.append(_weighed(rows, rows, recipe.keep_scale / (far * len(moved.last) * member.weight)))
        members[name] = replace(
            member,
            rows=torch.cat([rows for rows, _ in pairs]),
            guides=torch.cat([guides for _, guides in pairs]),
            facts={**member.facts, "drawn": near + far},
        )
    return replace(statistics, members=members)


def _weighed(rows: Tensor, guides: Tensor, weight: float) -> tuple[Tensor, Tensor]:
    """Rows and guides that count ``weight`` times."""
    return rows.float() * weight**0.5, guides.float() * weight**0.5
