"""Passes of the papers' procedures and of ours: the counts are what runs, and the savings are those that we claim."""

from __future__ import annotations

from typing import Any

import pytest

import erase_plugins as ep
from benchmarks.methods import counted, plain_module

#: what every run below shares: nothing held besides, few steps
SMALL = {
    "iterations": 4,
    "trajectories": 2,
    "harvest": 4,
    "steps": 4,
    "batch": 2,
    "templates": ("{}",),
    "keep_weight": 0.0,
}
EXTRA: dict[str, dict[str, Any]] = {
    "ace": {"keep_words": 0, "priors": ("dog", "cat")},
    "receler": {"keep_words": 0, "stand_in": 0, "adversarial_steps": 3, "rank": 8},
    "advunlearn": {"retain": "predictions", "warmup": 1, "attack_steps": 2, "aliases": False},
}


@pytest.mark.parametrize(
    ("method", "part", "least"),
    [("advunlearn", "all", 10), ("trce", "preparation", 15), ("receler", "all", 3), ("ace", "all", 3)],
)
def test_we_need_so_many_times_fewer_passes(method, part, least):
    plan = ep.plan("pocket", "pizza", method)
    found = counted(method, dict(plan.options))
    assert found is not None
    assert found["ratio"][part] >= least


def passes(pipe, method: str, options: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    artifact = ep.erase(pipe, "pizza", method, options=options)
    return artifact.manifest.extra["numbers"]["unet_forwards"], dict(artifact.manifest.options)


@pytest.mark.parametrize("method", sorted(EXTRA))
def test_ours_is_what_the_engine_counts(tiny_sd1, method):
    ran, options = passes(tiny_sd1(), method, {**SMALL, **EXTRA[method]})
    sizes = 1 if method == "receler" else 0  # one pass tells how large the layers' attention maps are
    assert ran - sizes == sum(plain_module(method).ours(options).values())


@pytest.mark.parametrize("method", ["receler", "advunlearn"])
def test_the_plain_procedure_is_not_counted_dearer_than_it_runs(tiny_sd1, method):
    """The engine also asks at the step where a rollout stops, and for masks; the count is that of a frugal writer."""
    plain = plain_module(method)
    one_by_one = {"iterations": 16, "batch": 1}
    ran, options = passes(tiny_sd1(), method, {**SMALL, **EXTRA[method], **one_by_one, **plain.OPTIONS})
    held = {"retained": 0} if method == "advunlearn" else {}
    assert 1 < ran / sum(plain.forwards(options, **held).values()) < 1.6
