"""A map of text rows in the weights of a stand-in MODEL: behind every addition, one for all nodes, moved where it must."""

from __future__ import annotations

import pytest
import torch

from comfy_nodes import row_maps
from comfy_nodes.patches import apply_edit
from comfy_nodes.row_maps import RowMap
from comfy_nodes.target import ComfyTarget
from comfy_nodes.weights import unbaked
from tests.comfy_nodes.conftest import context_edit


@pytest.fixture
def target(fake_model):
    return ComfyTarget(fake_model[0])


def product(*edits):
    """Sum of B A."""
    deltas = [edit.deltas["unet"]["context"] for edit in edits]
    return sum(delta.B @ delta.A for delta in deltas)


def edits(target):
    return context_edit(target.info.width), context_edit(target.info.width, 1)


def carried_product(model):
    found = row_maps.carried(model)
    return None if found is None else found.weights[1] @ found.weights[0]


def changed(model, key):
    """The weight under the map that hangs on it."""
    ((strength, patch, strength_model, offset, function),) = model.patches[key]
    assert (strength, strength_model, offset, function) == (1.0, 1.0, None, None)
    weight = model.weights[key].clone()
    return patch.calculate_weight(weight, key, 1.0, 1.0, None, lambda change: change)


@pytest.mark.parametrize(("dtype", "near"), [(torch.float32, 1e-6), (torch.float16, 2**-10), (torch.bfloat16, 2**-7)])
def test_weights_map_rows_as_a_map_in_front_would_and_the_base_is_untouched(fake_model, dtype, near):
    model, _ = fake_model
    model.weights = {name: value.to(dtype) for name, value in model.weights.items()}
    target = ComfyTarget(model)
    first, _ = edits(target)
    done = apply_edit(target, first, 0.5)
    refs = target.modules("cross_kv")
    assert (done.count, done.total) == (len(refs), len(refs))
    assert set(done.model.patches) == {target.key("unet", ref.weight) for ref in refs}
    assert model.patches == {}
    for key in done.model.patches:
        wide = model.weights[key].float()
        wanted = wide @ (torch.eye(target.info.width) + 0.5 * product(first))
        assert torch.allclose(changed(done.model, key).float(), wanted, rtol=near, atol=near * float(wide.abs().max()))
    assert done.unsaved == ()
    assert "(context map in the weights)" in done.report("x", 0.5)
    assert "\n" not in done.report("x", 0.5)


def test_maps_of_two_nodes_add_up_and_the_first_model_keeps_its_own(target):
    first, second = edits(target)
    one = apply_edit(target, first, 1.0).model
    two = apply_edit(ComfyTarget(one), second, 0.5).model
    assert torch.allclose(carried_product(two), product(first) + 0.5 * product(second), atol=1e-6)
    assert torch.allclose(carried_product(one), product(first), atol=1e-6)
    assert {len(found) for found in two.patches.values()} == {1}
    assert one.patches_uuid != two.patches_uuid


def test_the_next_node_reads_weights_without_the_map_and_rows_with_it(target):
    first, _ = edits(target)
    behind = ComfyTarget(apply_edit(target, first, 1.0).model)
    ref = target.modules("cross_kv")[0]
    assert torch.equal(behind.weight(ref), target.weight(ref))
    rows = torch.randn(1, 5, target.info.width)
    assert torch.allclose(behind.seen(rows), rows + rows @ product(first).T, atol=1e-5)
    assert torch.equal(target.seen(rows), rows)


def test_a_lora_that_comes_later_goes_in_front_and_a_merge_behind(target):
    first, _ = edits(target)
    key = target.key("unet", target.modules("cross_kv")[0].weight)
    lora, other = ("diff", (torch.ones(1),)), [("model", None)]
    model = apply_edit(target, first, 1.0).model.clone()
    model.add_patches({key: lora}, 0.7)
    kinds = [type(patch[1]) for patch in model.patches[key]]
    assert kinds == [tuple, RowMap]
    assert row_maps.carried(model) is not None
    again = model.clone()
    again.add_patches({key: lora}, 0.7)
    assert [type(patch[1]) for patch in again.patches[key]] == [tuple, tuple, RowMap]
    for strength_patch, strength_model in ((0.5, 0.5), (1.0, 1.0), (-1.0, 1.0)):
        merged = model.clone()
        merged.add_patches({key: other}, strength_patch, strength_model)
        merged.add_patches({key: lora}, 0.7)
        assert [type(patch[1]) for patch in merged.patches[key]] == [tuple, RowMap, list, tuple]
        assert row_maps.carried(merged) is None  # a part of the weights from now on
        twice = apply_edit(ComfyTarget(merged), first, 1.0).model
        assert [type(patch[1]) for patch in twice.patches[key]] == [tuple, RowMap, list, tuple, RowMap]
    scaled = model.clone()
    scaled.add_patches({key: lora}, 0.7, 0.5)
    assert [type(patch[1]) for patch in scaled.patches[key]] == [tuple, RowMap, tuple]


def test_a_node_that_leaves_the_weights_alone_takes_the_map_along_and_says_what_is_lost(target):
    first, second = edits(target)
    one = apply_edit(target, first, 0.5).model
    done = apply_edit(ComfyTarget(one), second, 1.0, touch_weights=False)
    assert done.model.patches == {}
    assert row_maps.carried(one) is not None
    rows = torch.randn(1, 5, target.info.width)
    wanted = rows + rows @ (0.5 * product(first) + product(second)).T
    assert torch.allclose(row_maps.seen(done.model, rows), wanted, atol=1e-5)
    assert "saved or merged behind this node: this node maps prompts" in done.report("x", 1.0)
    third = apply_edit(ComfyTarget(done.model), first, 1.0)  # no second place for maps
    assert row_maps.carried(third.model) is None
    assert "mapped already by a node in front" in third.report("x", 1.0)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_weights_that_would_round_it_away_are_left_and_the_report_says_so(fake_model, dtype):
    model, _ = fake_model
    model.weights = {name: value.to(dtype) for name, value in model.weights.items()}
    target = ComfyTarget(model)
    first, _ = edits(target)
    done = apply_edit(target, first, 1.0)
    assert done.model.patches == {}
    report = done.report("x", 1.0)
    assert "(context map in front of the weights)" in report
    assert "not in models that are saved or merged behind this node: the weights are stored as float8" in report
    assert "load the model in 16 bit" in report


def test_tensors_of_other_packs_are_not_patched():
    class Packed(torch.Tensor):
        pass

    assert "stored as Packed" in unbaked([torch.zeros(2).as_subclass(Packed)])
    assert "stored as uint8" in unbaked([torch.zeros(2, dtype=torch.uint8)])
    assert unbaked([torch.zeros(2), torch.nn.Parameter(torch.zeros(2, dtype=torch.bfloat16))]) == ""


def test_a_map_made_anew_by_comfyui_is_the_same(target):
    found = row_maps.carried(apply_edit(target, edits(target)[0], 1.0).model)
    again = type(found)(found.loaded_keys, found.weights)
    weight = torch.randn(3, target.info.width)
    one, two = (item.calculate_weight(weight.clone(), "x", 1.0, 1.0, None, lambda w: w) for item in (found, again))
    assert torch.equal(one, two)
    assert found.calculate_shape("x") is None
