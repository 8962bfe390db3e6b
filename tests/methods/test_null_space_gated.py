"""SPEED behind gates: what a memory is, what prompts that name nothing get, merged, added and revoked."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

import erase_plugins as ep
from erase_plugins.artifacts.gated import GATE, concepts_of, gate_list
from erase_plugins.engine.estimate import settle_gates
from erase_plugins.errors import Unsupported
from erase_plugins.methods.null_space import NullSpaceOptions
from erase_plugins.options import resolve
from erase_plugins.types import Concept, EraseRequest

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


def test_gates_by_themselves_where_concepts_fill_more_than_half_of_a_map(pocket_target) -> None:
    few, many, kept = (
        ep.plan("pocket", [f"thing {number}" for number in range(count)], "null-space", options=options)
        for count, options in ((8, {}), (9, {}), (9, {"gated": False}))
    )
    assert [plan.options["gated"] for plan in (few, many, kept)] == [False, True, False]
    told = [text for text in many.warnings if "gated=false makes one of all" in text]
    assert len(told) == 1 and "9 concepts fill about 144 directions, one map has 256" in told[0]
    assert not any("gated=false" in text for plan in (few, kept) for text in plan.warnings)
    flow = ep.plan("pocket-flow", [f"thing {number}" for number in range(40)], "null-space")
    assert flow.options["gated"] is False  # no layers for gates: the one map


@pytest.mark.parametrize(("given", "most"), [({}, 64), ({"expand": False}, 384), ({"tokens": "window"}, 24)])
def test_a_concept_fills_as_many_directions_as_it_has_rows(given, most) -> None:
    """The 768 directions of Stable Diffusion 1.5: six phrasings of a last row, one last row, 16 of many rows."""
    info = SimpleNamespace(
        model="m", width=768, tokens=77, supports=lambda name: True, family=SimpleNamespace(padding=lambda info: ()),
    )  # fmt: skip
    for count, gated in ((most, False), (most + 1, True)):
        request = EraseRequest(
            model="m", method="null-space", concepts=tuple(Concept(f"thing {number}") for number in range(count))
        )
        assert settle_gates(request, resolve(NullSpaceOptions, given), info)[0].gated is gated
