"""Erase nodes behind each other: solved jointly, so that neighbours drift no more than under one request for all."""

from __future__ import annotations

import pytest
import torch

import erase_plugins as ep
from comfy_nodes import chaining, row_maps
from comfy_nodes.target import ComfyTarget
from erase_plugins.stack import Entry, stack_of
from erase_plugins.workflow.models import as_target


@pytest.fixture
def made(fake_model):
    """(MODEL, target of diffusers, function that erases from it)."""
    model, pipe = fake_model
    target = as_target(pipe)

    def erase(*concepts, method="uce", **options):
        return ep.erase(target, [ep.Concept(name, anchor=to) for name, to in concepts], method,
                        options={**options})  # fmt: skip

    return model, target, erase


def change(model):
    """B A of all our maps in the weights, float64."""
    found = row_maps.carried(model)
    return found.weights[1].double() @ found.weights[0].double()


def drift(model, target, words):
    """Mean relative change of the text rows of words."""
    rows = target.encode(words).embeds.double()
    return float((rows @ change(model).T).norm() / rows.norm())


DOG, CAR = ("dog", "tiger"), ("car", "truck")


def test_a_chain_is_what_one_request_for_all_gives(made):
    model, target, erase = made
    first = chaining.put_on(model, None, (Entry(erase(DOG)),))
    chained = chaining.put_on(first.model, None, (Entry(erase(CAR)),))
    whole = chaining.put_on(model, None, (Entry(erase(DOG, CAR)),))
    assert torch.allclose(change(chained.model), change(whole.model), atol=1e-6 * float(change(whole.model).norm()))
    stacked = change(first.model) + change(chaining.put_on(model, None, (Entry(erase(CAR)),)).model)
    assert (stacked - change(whole.model)).norm() > 0.01 * change(whole.model).norm()  # what adding up would give
    neighbours = ["cat", "wolf", "bus", "train"]
    assert drift(chained.model, target, neighbours) == pytest.approx(drift(whole.model, target, neighbours), rel=1e-4)
    assert chained.artifact.manifest.erased == whole.artifact.manifest.erased == ("car", "dog")
    assert "together with earlier erase nodes: dog" in chained.lines
    assert len(row_maps.names(chained.model)) == 1
    assert row_maps.names(chained.bare) == [] and row_maps.names(model) == []


def test_strengths_of_members_stay_their_own(made):
    model, _, erase = made
    first = chaining.put_on(model, None, (Entry(erase(DOG), 0.4),))
    chained = chaining.put_on(first.model, None, (Entry(erase(CAR), 0.9),))
    at_once = chaining.put_on(model, None, (Entry(erase(DOG), 0.4), Entry(erase(CAR), 0.9)))
    assert torch.allclose(change(chained.model), change(at_once.model), atol=1e-7)
    assert [entry.strength for entry in stack_of(chained.artifact).entries] == [0.4, 0.9]


def test_a_concept_that_is_named_again_follows_the_later_node(made):
    model, _, erase = made
    first = chaining.put_on(model, None, (Entry(erase(DOG, CAR)),))
    again = chaining.put_on(first.model, None, (Entry(erase(("dog", "cat"))),))
    at_once = chaining.put_on(model, None, (Entry(erase(("dog", "cat"), CAR)),))
    assert torch.allclose(change(again.model), change(at_once.model), atol=1e-6 * float(change(at_once.model).norm()))
    assert "dog: as this node says, not as an earlier one did" in again.lines


def test_without_members_the_model_goes_through_with_the_chain_as_artifact(made):
    model, _, erase = made
    first = chaining.put_on(model, None, (Entry(erase(DOG)),))
    off = chaining.put_on(first.model, None, ())
    assert off.model is first.model
    assert off.artifact is first.artifact
    assert chaining.put_on(model, None, ()).model is model


def test_maps_and_loras_of_other_nodes_stay_where_they_are(made):
    """A map of a node that is no part of the chain, and a patch that came between, are under the new solution too."""
    from erase_plugins.artifacts.edit import ContextMap
    from erase_plugins.runtime.context import ActiveMap

    model, _, erase = made
    target = ComfyTarget(model)
    keys = [target.keys[("unet", ref.weight)] for ref in target.modules("cross_kv")]
    width = target.info.width
    alien = ContextMap(torch.ones(1, width), torch.ones(width, 1))
    under = row_maps.hang_in_weights(model, keys, ActiveMap(alien, 0.5))
    first = chaining.put_on(under, None, (Entry(erase(DOG)),))
    first.model.add_patches({keys[0]: ("diff", (torch.zeros(1),))})
    chained = chaining.put_on(first.model, None, (Entry(erase(CAR)),))
    whole = chaining.put_on(model, None, (Entry(erase(DOG, CAR)),))
    wanted = change(whole.model) + 0.5 * torch.ones(width, width).double()
    assert torch.allclose(change(chained.model), wanted, atol=1e-5)
    assert [type(patch[1]).__name__ for patch in chained.model.patches[keys[0]]] == ["tuple", "RowMap"]


def test_other_settings_are_added_and_a_merge_closes_the_chain(made):
    model, _, erase = made
    first = chaining.put_on(model, None, (Entry(erase(DOG)),))
    apart = chaining.put_on(first.model, None, (Entry(erase(CAR, lam=0.05)),))
    assert len(row_maps.names(apart.model)) == 2
    merged = first.model.clone()
    for key in row_maps.carried(first.model).loaded_keys:
        merged.patches[key].append((1.0, [("other model",)], 0.5, None, None))
    found, problem = chaining.chain_of(merged)
    assert found is None
    assert "a merge behind an earlier erase node" in problem


@pytest.mark.parametrize("front", [False, True])
def test_a_map_is_found_again_and_taken_off_wherever_it_hangs(made, front):
    from erase_plugins.artifacts.edit import ContextMap
    from erase_plugins.runtime.context import ActiveMap

    model, _, _ = made
    target = ComfyTarget(model)
    keys = [target.keys[("unet", ref.weight)] for ref in target.modules("cross_kv")]
    item = ActiveMap(ContextMap(torch.ones(1, target.info.width), torch.ones(target.info.width, 1)))
    hung = row_maps.hang_in_front(model, item) if front else row_maps.hang_in_weights(model, keys, item)
    more = row_maps.hang_in_front(hung, item) if front else row_maps.hang_in_weights(hung, keys, item)
    (name,) = row_maps.names(hung)
    assert row_maps.names(more)[0] == name
    left = row_maps.without(more, {name})
    assert row_maps.names(left) == row_maps.names(more)[1:]
    bare = row_maps.without(hung, {name})
    assert row_maps.names(bare) == []
    rows = torch.randn(3, target.info.width)
    assert torch.equal(row_maps.seen(bare, rows), rows)
    assert torch.allclose(row_maps.seen(left, rows), row_maps.seen(hung, rows))
    if front:
        (patch,) = row_maps.in_front(hung)
        assert [part.name for part in patch.to("cpu").maps] == [name]


def test_nodes_of_0_1_behind_each_other_add_up_as_ever_and_join_behind_an_erase_node(made):
    from erase_plugins.stack import Stack

    model, _, erase = made
    dog, car = Stack((Entry(erase(DOG)),)), Stack((Entry(erase(CAR)),))
    whole = change(chaining.put_on(model, None, (Entry(erase(DOG, CAR)),)).model)
    one, other = (chaining.over(model, None, item).model for item in (dog, car))
    old = chaining.over(one, None, car)
    assert torch.allclose(change(old.model), change(one) + change(other), atol=1e-6)
    behind = chaining.over(chaining.put_on(model, None, dog.entries).model, None, car)
    assert torch.allclose(change(behind.model), whole, atol=1e-6 * float(whole.norm()))
    then = chaining.put_on(old.model, None, (Entry(erase(("tree", "star"))),))
    three = chaining.put_on(model, None, (Entry(erase(DOG, CAR, ("tree", "star"))),))
    assert torch.allclose(change(then.model), change(three.model), atol=1e-6 * float(change(three.model).norm()))
    half = chaining.over(model, None, dog, strength=0.5)
    assert torch.allclose(change(half.model), 0.5 * change(one), atol=1e-7)
    assert chaining.over(model, None, dog, strength=0.0).model is model
