"""SPEED behind gates: what a memory is, what prompts that name nothing get, merged, added and revoked."""

from __future__ import annotations

import pytest
import torch

import erase_plugins as ep
from erase_plugins.artifacts.gated import GATE, concepts_of, gate_list
from erase_plugins.errors import Unsupported

FAST = {
    "vocabulary": 60, "frames": (), "tokens": "window", "expand": False, "aliases": False, "tau": 1e-3, "rho": 1e-3,
    "soft": 0.0, "vocabulary_frames": ("{}",),
}  # fmt: skip
GATED = {**FAST, "gated": True, "gate_words": 80}


@pytest.fixture(scope="module")
def pair(pocket_target):
    return ep.erase(pocket_target, ["dog", "pizza"], method="null-space", options=GATED)


def memory(artifact, concept: str, key: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Down and up factors of one concept at one module."""
    delta, number = artifact.edit.deltas["unet"][key], concepts_of(artifact.edit).index(concept)
    rows = [row for row, gate in enumerate(gate_list(delta)) if gate == number]
    return delta.weights["down"][rows], delta.weights["up"][:, rows]


def keys(artifact) -> list[str]:
    return [key for key in artifact.edit.deltas["unet"] if key != GATE]


@pytest.mark.parametrize("projections", ["values", "both"])
def test_a_memory_is_the_plain_solution_of_its_concept_alone(pocket_target, projections) -> None:
    options = {**GATED, "memory": 256, "projections": projections}
    both = ep.erase(pocket_target, ["dog", "pizza"], method="null-space", options=options)
    plain = ep.erase(pocket_target, "pizza", method="null-space", options={**FAST, "projections": "values"})
    values = plain.edit.deltas["unet"]
    assert {f"{key}.weight" for key in keys(both)} >= set(values)
    assert len(keys(both)) == len(values) * (1 if projections == "values" else 2)
    for name, delta in values.items():
        down, up = memory(both, "pizza", name.removesuffix(".weight"))
        wanted = delta.dense()
        assert float((up @ down - wanted).norm() / wanted.norm()) < 1e-4


def test_fewer_directions_are_the_best_of_all_projections_together(pocket_target, pair) -> None:
    """Eckart and Young: the energy that is cut is that of the singular values left out."""
    plain = ep.erase(pocket_target, "dog", method="null-space", options={**FAST, "projections": "values"})
    values = plain.edit.deltas["unet"]
    stacked = torch.cat([values[f"{key}.weight"].dense().double() for key in keys(pair)])
    parts = [memory(pair, "dog", key) for key in keys(pair)]
    mine = torch.cat([(up.double() @ down.double()) for down, up in parts])
    sizes = torch.linalg.svdvals(stacked)
    assert len(parts[0][0]) == 16
    assert float((stacked - mine).norm() ** 2) == pytest.approx(float((sizes[16:] ** 2).sum()), rel=1e-2, abs=1e-6)


def test_prompts_that_mean_no_concept_do_not_move_at_all(pocket_target, pair) -> None:
    pipe = pocket_target.pipe
    prompts, seeds = ["a pizza on red", "a guitar on red"], [3, 3]
    before = ep.generate(pipe, prompts, (), seeds=seeds, steps=2)
    after = ep.generate(pipe, prompts, (pair,), seeds=seeds, steps=2)
    assert torch.equal(after[1], before[1])
    assert not torch.equal(after[0], before[0])


def test_merged_added_and_revoked_as_they_are(pocket_target, pair) -> None:
    parts = [ep.erase(pocket_target, name, method="null-space", options=GATED) for name in ("dog", "pizza")]
    merged = ep.merge(parts)
    added = ep.add(parts[0], "pizza", pocket_target)
    alone = ep.revoke(pair, "dog")
    for key in keys(pair):
        for concept, one in (("dog", parts[0]), ("pizza", parts[1])):
            for part, other in zip(memory(one, concept, key), memory(pair, concept, key), strict=True):
                assert torch.equal(part, other)
        for made in (merged, added, alone):
            for part, other in zip(memory(made, "pizza", key), memory(pair, "pizza", key), strict=True):
                assert torch.equal(part, other)
    assert concepts_of(alone.edit) == ("pizza",)


def test_the_plan_says_what_gates_cost_and_refuses_where_no_memory_lies(pocket_target) -> None:
    names = [f"thing {number}" for number in range(20)]
    shared, gated = (ep.plan("pocket", names, "null-space", options={"gated": gated}) for gated in (False, True))
    assert any("one linear map has" in text for text in shared.warnings)
    assert gated.file_bytes == 20 * ep.plan("pocket", "thing", "null-space", options={"gated": True}).file_bytes
    assert any("gates fixed at 1" in text for text in gated.notes)
    with pytest.raises(Unsupported, match="no cross-attention"):
        ep.plan("pocket-flow", "dog", "null-space", options={"gated": True})
