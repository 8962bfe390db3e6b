"""Neighbours of a concept for closed-form methods: random ones from a shell around its embedding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from erase_plugins.artifacts.statistics import Statistics
from erase_plugins.engine.collect import Recipe
from erase_plugins.engine.phrases import paired_rows
from erase_plugins.engine.shell import Shell
from erase_plugins.families.base import Conditioning, Target


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
    weigh together as much as one kept prompt.

    Args:
        statistics: from `collect`.
        shell, recipe: where neighbours lie, which rows stand for a phrase.
        target: encodes.
        generator: named randomness (`RunContext.generator`).
        near, far: draws per phrase of each concept.
    """
    members, keep = dict(statistics.members), dict(statistics.keep)
    for name, member in statistics.members.items():
        cond = target.encode(member.facts["phrases"])
        guide = target.encode([member.facts["guide"]])
        draw = generator(f"shell rows {name}")
        rows, guides = member.pair()
        pairs = [(rows, guides)]
        for _ in range(near):
            moved = shell.near(cond, draw)
            pairs += [
                _scaled(paired_rows(moved, guide, place, 0, recipe.tokens), near) for place in range(len(moved.last))
            ]
        members[name] = replace(
            member,
            rows=torch.cat([a for a, _ in pairs]),
            guides=torch.cat([b for _, b in pairs]),
            facts={**member.facts, "drawn": near + far},
        )
        for number in range(far):
            keep[f"outside {name} {number + 1}"] = _outside(shell.far(cond, draw), far)
    return replace(statistics, members=members, keep=keep)


def _scaled(pair: tuple[Tensor, Tensor], count: int) -> tuple[Tensor, Tensor]:
    rows, guides = (part.float() / count**0.5 for part in pair)
    return rows, guides


def _outside(cond: Conditioning, count: int) -> Tensor:
    rows = cond.embeds[:, 1:].float().cpu().flatten(0, 1)
    return (rows / (count * len(cond.last)) ** 0.5).contiguous()
