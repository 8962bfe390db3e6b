"""OCE behind gates: what a memory is, what prompts that name nothing get, merged and revoked."""

from __future__ import annotations

import pytest
import torch

import erase_plugins as ep
from erase_plugins.artifacts.gated import GATE, concepts_of, gate_list
from erase_plugins.methods.oce import OCEOptions
from erase_plugins.options import resolve

PLAIN = {"vocabulary": 60, "vocabulary_frames": ("{}",), "aliases": False, "gated": False, "energy": 1.0}
GATED = {**PLAIN, "gated": True, "gate_words": 80, "memory": 1024}


@pytest.fixture(scope="module")
def pair(pocket_target):
    return ep.erase(pocket_target, ["dog", "pizza"], method="oce", options=GATED)


def dense(artifact, concept: str, key: str) -> torch.Tensor:
    """One concept's change of one projection."""
    delta, number = artifact.edit.deltas["unet"][key], concepts_of(artifact.edit).index(concept)
    rows = [row for row, gate in enumerate(gate_list(delta)) if gate == number]
    return delta.weights["up"][:, rows] @ delta.weights["down"][rows]


def test_a_memory_is_the_rotation_of_its_concept_alone(pocket_target, pair) -> None:
    plain = ep.erase(pocket_target, "pizza", method="oce", options=PLAIN).edit.deltas["unet"]
    assert set(pair.edit.deltas["unet"]) == {GATE, *(name.removesuffix(".weight") for name in plain)}
    for name, delta in plain.items():
        mine, wanted = dense(pair, "pizza", name.removesuffix(".weight")), delta.dense()
        assert float((mine - wanted).norm() / wanted.norm()) < 1e-4


def test_a_memory_has_no_more_directions_than_asked(pocket_target) -> None:
    made = ep.erase(pocket_target, "pizza", method="oce", options={**GATED, "memory": 3})
    ranks = {len(delta.weights["down"]) for key, delta in made.edit.deltas["unet"].items() if key != GATE}
    assert ranks == {3}
    assert 0 < made.manifest.extra["numbers"]["memory_cut"] < 1


def test_prompts_that_mean_no_concept_do_not_move_at_all(pocket_target, pair) -> None:
    prompts, seeds = ["a pizza on red", "a guitar on red"], [3, 3]
    before = ep.generate(pocket_target.pipe, prompts, (), seeds=seeds, steps=2)
    after = ep.generate(pocket_target.pipe, prompts, (pair,), seeds=seeds, steps=2)
    assert torch.equal(after[1], before[1])
    assert not torch.equal(after[0], before[0])


def test_merged_and_revoked_as_they_are(pocket_target, pair) -> None:
    parts = [ep.erase(pocket_target, name, method="oce", options=GATED) for name in ("dog", "pizza")]
    merged, alone = ep.merge(parts), ep.revoke(pair, "dog")
    for key in set(pair.edit.deltas["unet"]) - {GATE}:
        for made in (merged, alone):
            assert torch.equal(dense(made, "pizza", key), dense(pair, "pizza", key))
    assert concepts_of(alone.edit) == ("pizza",)


def test_the_plan_says_what_gates_cost_and_only_pocket_takes_them_by_itself() -> None:
    one, two = (ep.plan("pocket", names, "oce") for names in (["dog"], ["dog", "owl"]))
    assert one.options["gated"] and two.file_bytes == 2 * one.file_bytes
    assert any("gates fixed at 1" in text for text in two.notes)
    published = resolve(OCEOptions, {}, ("sd1", "object"))
    assert not published.gated and published.erase == 1000
