"""Residuals and drifts on pocket: known values for nothing, for everything, and for a LoRA that comes later."""

from __future__ import annotations

import pytest
import torch

import erase_plugins as ep
from comfy_nodes.probing import DRIFT, RESIDUAL, probe, probe_report
from erase_plugins.errors import RequestError
from erase_plugins.families.diffusers_target import DiffusersTarget
from erase_plugins.workflow.models import target_of

PIZZA = ep.Concept("pizza", anchor="hamburger")


@pytest.fixture(scope="module")
def pizza(pocket_target):
    return ep.erase(pocket_target, PIZZA, options={"vocabulary": 40}, keep=["a cat"])


def values(found):
    return {(item.metric, item.phrase): item.value for item in found}


def test_without_an_edit_nothing_is_mapped_and_nothing_moved(pocket_target):
    found = values(probe(pocket_target, [PIZZA], ["a cat"]))
    assert found == {(RESIDUAL, "pizza"): 1.0, (DRIFT, "a cat"): 0.0, (DRIFT, "hamburger"): 0.0}


@pytest.mark.parametrize("mode", ["weights", "context"])
def test_an_edit_maps_its_concept_and_leaves_the_kept_phrase(pocket_pipe, pizza, mode):
    target = target_of(pocket_pipe, "pocket")
    with ep.apply(pocket_pipe, pizza, mode=mode):
        full = values(probe(target, [PIZZA], ["a cat"]))
    with ep.apply(pocket_pipe, pizza, strength=0.5, mode=mode):
        half = values(probe(target, [PIZZA], ["a cat"]))
    assert full[(RESIDUAL, "pizza")] < 0.2
    assert 0.4 < half[(RESIDUAL, "pizza")] < 0.65
    assert full[(DRIFT, "a cat")] < 0.05
    assert values(probe(target, [PIZZA]))[(RESIDUAL, "pizza")] == 1.0


def test_the_value_is_the_distance_in_keys_and_values(pocket_target, pizza):
    """Against the definition, written out for one layer."""
    delta = pizza.edit.deltas["unet"]["context"]

    class Mapped(DiffusersTarget):
        def seen(self, rows):
            return rows + rows @ delta.A.to(rows).T @ delta.B.to(rows).T

    now = Mapped(pocket_target.pipe, "pocket", pocket_target.family)
    (found, _) = probe(now, [PIZZA], tokens="last")
    cond = now.encode(["pizza", "hamburger"])
    rows = torch.stack([cond.embeds[i, cond.last[i]] for i in (0, 1)])
    ref = now.modules("cross_kv")[0]
    here, there = now.seen(rows) @ now.weight(ref).T, rows @ now.weight(ref).T
    wanted = float((here[0] - here[1]).norm() / (there[0] - there[1]).norm())
    assert found.layers[ref.path] == pytest.approx(wanted, rel=1e-4)
    assert min(found.layers.values()) <= found.value <= found.worst


def test_the_report_holds_one_row_a_phrase(pocket_target):
    found = probe(pocket_target, [PIZZA], ["a cat"])
    report = probe_report(found, "pocket", ["x"])
    assert report.erased == ("pizza",)
    assert report.row(RESIDUAL, "pizza").n == len(pocket_target.modules("cross_kv"))
    assert "0.0 % mapped to 'hamburger'" in found[0].line()


def test_phrases_that_say_nothing_are_refused(pocket_target):
    with pytest.raises(RequestError, match="no content tokens"):
        probe(pocket_target, [ep.Concept("!?", anchor="dog")]) if not pocket_target.encode(["!?"]).last[0] else probe(
            pocket_target, [ep.Concept("  .", anchor="dog")]
        )
    with pytest.raises(RequestError, match="cannot tell 'dog' from 'dog'"):
        probe(pocket_target, [ep.Concept("dog", anchor="dog")])
    assert probe(pocket_target, []) == ()
