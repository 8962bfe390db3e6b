"""Stacks on a stand-in MODEL: the very same objects where nothing is on, clones otherwise, reasons where no sum exists."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from comfy_nodes import row_maps, stacking
from comfy_nodes.curves import CurvedArtifact
from comfy_nodes.nodes.stack import SPECS, revoke
from comfy_nodes.nodes.strength import _time_problem
from erase_plugins.artifacts.artifact import Artifact
from erase_plugins.artifacts.manifest import Manifest
from erase_plugins.errors import ArtifactError, BaseMismatch, RequestError
from erase_plugins.stack import Entry, Stack, stack_of
from tests.comfy_nodes.conftest import context_edit


@pytest.fixture
def model(fake_model):
    return fake_model[0]


def artifact(model, name, seed=0, **base):
    width = int(model.model.model_config.unet_config["context_dim"])
    manifest = Manifest(name=name, method={"id": "t", "title": "T"}, concepts=(), base={"family": "sd1", **base})
    return Artifact(manifest, context_edit(width, seed))


def change(model):
    """B A of the map in the weights."""
    found = row_maps.carried(model)
    return None if found is None else found.weights[1] @ found.weights[0]


def test_members_are_hung_on_a_clone_with_their_strengths(model):
    one, two = artifact(model, "one"), artifact(model, "two", 1)
    done = stacking.put_on(model, None, Stack((Entry(one, 0.5), Entry(two))), strength=0.5)
    first, second = (item.edit.deltas["unet"]["context"] for item in (one, two))
    wanted = 0.25 * first.B @ first.A + 0.5 * second.B @ second.A
    assert torch.allclose(change(done.model), wanted, atol=1e-6)
    assert change(model) is None
    assert stack_of(done.artifact).names == ("one", "two")
    delta = done.artifact.edit.deltas["unet"]["context"]
    assert torch.allclose(delta.B @ delta.A, 0.5 * first.B @ first.A + second.B @ second.A, atol=1e-5)


def test_what_was_not_compared_and_what_is_left_out_is_told_for_every_member(model, monkeypatch):
    notes = {"one": ("3 of 9 values of unet cannot be read and were not compared with the base",), "two": ()}
    monkeypatch.setattr(stacking, "check_fits", lambda member, target, any_base: notes[member.name])
    two = artifact(model, "two", 1)
    two = Artifact(dataclasses.replace(two.manifest, guards=({"concept": "pizza"},)), two.edit)
    lines = stacking.put_on(model, None, Stack((Entry(artifact(model, "one")), Entry(two)))).lines
    assert lines[0] == f"one: {notes['one'][0]}"
    assert lines[1].startswith("two: its guards are no part of a stack; with the node")
    assert len(lines) == 5  # a line for each layer, and what they were solved for


@pytest.mark.parametrize("strengths", [(0.0, 1.0), (1.0, 0.0)])
def test_nothing_switched_on_gives_the_very_same_model(model, strengths):
    member, whole = strengths
    done = stacking.put_on(model, None, Stack((Entry(artifact(model, "one"), member),)), strength=whole)
    assert done.model is model


def test_an_empty_stack_passes_the_model_through_and_says_why_it_cannot_be_saved(model, tmp_path):
    done = stacking.put_on(model, None, Stack(()))
    assert done.model is model
    with pytest.raises(ArtifactError, match="cannot be saved: nothing in the stack is switched on"):
        done.artifact.with_manifest(name="x").save(tmp_path / "x")


def test_a_member_with_a_curve_makes_the_whole_unsavable(model, tmp_path, monkeypatch):
    plain = artifact(model, "one")
    curved = CurvedArtifact(plain.manifest, plain.edit, None, ((0.0, 1.0), (1.0, 0.0)))
    monkeypatch.setattr(type(model), "get_model_object", lambda *_: _Sampling(), raising=False)
    done = stacking.put_on(model, None, Stack((Entry(curved),)))
    assert done.model is not model
    assert stack_of(done.artifact).names == ("one",)
    with pytest.raises(ArtifactError, match="strength curve over time"):
        done.artifact.save(tmp_path / "x")


class _Sampling:
    def percent_to_sigma(self, share):
        return 1.0 - share


def test_another_family_is_refused_before_anything_is_hung(model):
    with pytest.raises(BaseMismatch, match="family sdxl"):
        stacking.put_on(model, None, Stack((Entry(artifact(model, "big", family="sdxl")),)))


def test_taking_out_names_what_it_needs(model):
    with pytest.raises(RequestError, match="nothing to take out is named"):
        revoke(artifact(model, "one"), model, " # nobody\n", False, False, True)
    done = revoke(artifact(model, "one"), model, "one", False, False, True)
    assert done.values[0] is model
    assert "left: nothing" in done.text


def test_widgets_are_checked_before_the_run():
    checks = {spec.id: spec.checks for spec in SPECS}
    assert "not a number" in checks["EraseStack"]["rows"]("pizza : x", set())
    assert checks["EraseLibrary"]["names"]("pizza\ndog : 0.5") is None
    assert "no share" in str(_time_problem("1.5 : 1"))
    assert "share of the sampling" in str(_time_problem("late : 1"))
    assert _time_problem("") is None
