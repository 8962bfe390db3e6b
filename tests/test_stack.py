"""Stacks: joint solutions at any strength, taking out is never having had, other members add up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import erase_plugins as ep
from erase_plugins.artifacts.edit import LowRank
from erase_plugins.errors import RequestError, UnknownName
from erase_plugins.stack import Entry, Stack, StackArtifact, combined, stack_of
from tests.layouts.making import artifact_of, random_edit
from tests.test_compose import FAST, matrix


@pytest.fixture(scope="module")
def made(pocket_target):
    parts = {name: ep.erase(pocket_target, name, options=FAST) for name in ("pizza", "dog", "car")}
    lora = artifact_of(pocket_target, random_edit(pocket_target, ("denoiser",)), "lora")
    return {**parts, "rece": ep.erase(pocket_target, "cake", "rece", options=FAST), "lora": lora}


def stack(made, *rows):
    return Stack(tuple(Entry(made[name], strength) for name, strength in rows))


def same(one, two):
    a, b = ({(c, k, n): t for c, k, d in x.edit.items() for n, t in d.tensors().items()} for x in (one, two))
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_members_are_solved_jointly_in_any_order(made):
    (layer,) = stack(made, ("dog", 1.0), ("pizza", 1.0)).layers()
    (other,) = stack(made, ("pizza", 1.0), ("dog", 1.0)).layers()
    assert layer.joint
    assert layer.members == ("erase_dog", "erase_pizza")
    assert torch.equal(matrix(layer.artifact), matrix(ep.merge([made["pizza"], made["dog"]])))
    assert same(layer.artifact, other.artifact)


@pytest.mark.parametrize("kind", ["member", "concept"])
def test_taking_out_is_never_having_had(made, kind):
    full = stack(made, ("pizza", 0.7), ("dog", 1.0), ("lora", 0.5), ("rece", 1.0))
    less = full.without(["erase_pizza", "lora"] if kind == "member" else ["pizza"])  # both erase pizza
    never = stack(made, ("dog", 1.0), ("rece", 1.0))
    assert less.names == never.names
    for one, two in zip(less.layers(), never.layers(), strict=True):
        assert same(one.artifact, two.artifact)
        assert one.strength == two.strength


def test_a_concept_is_taken_out_of_a_member_that_erases_several(made, pocket_target):
    both = ep.erase(pocket_target, ["pizza", "dog"], options=FAST)
    (layer,) = Stack((Entry(both), Entry(made["car"]))).without(["pizza"]).layers()
    (wanted,) = stack(made, ("dog", 1.0), ("car", 1.0)).layers()
    assert same(layer.artifact, wanted.artifact)


def test_strength_of_a_member_is_the_way_to_its_guide(made, pocket_target):
    """At half strength the joint map moves the phrase half as far; the other member is moved fully."""
    cond = pocket_target.encode(["pizza", "dog"])
    (half,) = stack(made, ("pizza", 0.5), ("dog", 1.0)).layers()
    (full,) = stack(made, ("pizza", 1.0), ("dog", 1.0)).layers()

    def moved(layer, index):
        rows = cond.embeds[index, cond.last[index] :].double()
        return rows @ matrix(layer.artifact).T

    assert float((moved(half, 0) - 0.5 * moved(full, 0)).norm() / moved(full, 0).norm()) < 0.05
    assert float((moved(half, 1) - moved(full, 1)).norm() / moved(full, 1).norm()) < 0.05


def test_strength_0_leaves_a_member_out(made):
    assert stack(made, ("pizza", 0.0)).layers() == ()
    (layer,) = stack(made, ("pizza", 0.0), ("dog", 1.0)).layers()
    assert layer.artifact is made["dog"]


def test_solving_on_the_same_model_gives_the_same_again(made, pocket_target):
    (stored,) = stack(made, ("pizza", 1.0), ("dog", 1.0)).layers()
    for encode in (False, True):
        (layer,) = stack(made, ("pizza", 1.0), ("dog", 1.0)).layers(pocket_target, encode=encode)
        assert torch.equal(matrix(layer.artifact), matrix(stored.artifact))


def test_solving_reads_the_effective_weights(made, pocket_pipe):
    from erase_plugins.workflow.models import target_of

    target = target_of(pocket_pipe, "pocket")
    (stored,) = stack(made, ("rece", 1.0)).layers()
    with ep.apply(pocket_pipe, made["lora"], strength=3.0):
        (layer,) = stack(made, ("rece", 1.0)).layers(target)
    change = matrix(layer.artifact) - matrix(stored.artifact)
    assert float(change.norm() / matrix(stored.artifact).norm()) > 1e-3
    (again,) = stack(made, ("rece", 1.0)).layers(target)
    back = matrix(again.artifact) - matrix(stored.artifact)
    assert float(back.norm() / change.norm()) < 1e-3


def test_one_artifact_does_what_the_layers_do(made, pocket_target):
    full = stack(made, ("pizza", 1.0), ("lora", 0.5))
    whole = combined(full, full.layers(), pocket_target)
    assert isinstance(whole, StackArtifact)
    assert stack_of(whole) is full
    assert stack_of(made["dog"]).names == ("erase_dog",)
    assert stack_of(whole.with_manifest(name="renamed")) is full
    ref = pocket_target.modules("cross_kv")[0]
    part = 0.5 * made["lora"].edit.deltas["unet"][ref.weight].dense()
    wanted = (
        part + (pocket_target.weight(ref) + part) @ matrix(made["pizza"]).float()
    )  # the map stands in front of both
    found = whole.edit.deltas["unet"][ref.weight]
    assert isinstance(found, LowRank)
    assert float((found.dense() - wanted).norm() / wanted.norm()) < 1e-5


def test_wrong_stacks_are_refused(made):
    with pytest.raises(RequestError, match="'erase_dog' is in the stack twice; give it once"):
        stack(made, ("dog", 1.0), ("dog", 0.5))
    one, two = (replace(made["dog"], path=Path("models", name)) for name in ("dog_by_uce", "dog_by_esd"))
    with pytest.raises(RequestError, match=r"'erase_dog' is in the stack twice \(as 'dog_by_uce' and 'dog_by_esd'\)"):
        Stack((Entry(one), Entry(two)))
    with pytest.raises(RequestError, match="strength nan of 'erase_dog'"):
        stack(made, ("dog", float("nan")))
    with pytest.raises(UnknownName, match="did you mean 'pizza'"):
        stack(made, ("pizza", 1.0)).without(["piza"])
    with pytest.raises(RequestError, match="holds nothing"):
        combined(stack(made), ())
