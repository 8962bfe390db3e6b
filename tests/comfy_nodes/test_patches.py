"""Edits on a stand-in MODEL: clones only, all modules or an error, exact on every storage type."""

from __future__ import annotations

import copy

import pytest
import torch

from comfy_nodes import patches
from comfy_nodes.patches import WeightWrapper, apply_edit
from comfy_nodes.row_maps import ContextPatch
from comfy_nodes.target import ComfyTarget
from erase_plugins.artifacts.edit import AddOn, Edit, LowRank
from erase_plugins.errors import BaseMismatch, RequestError, Unsupported
from tests.comfy_nodes.conftest import context_edit

LAYER = "mid_block.attentions.0.transformer_blocks.0.attn2"


def bottleneck(size):
    return AddOn("bottleneck", {"down": torch.ones(1, size), "up": torch.ones(size, 1)}, {})


def attn2_patches(model):
    return model.model_options["transformer_options"].get("patches", {}).get("attn2_patch", [])


@pytest.fixture
def target(fake_model):
    return ComfyTarget(fake_model[0])


def test_a_context_map_is_hung_on_a_clone_and_maps_keys_and_values(target):
    edit = context_edit(target.info.width)
    done = apply_edit(target, edit, 0.5, touch_weights=False)
    assert attn2_patches(target.model) == []
    assert (done.count, done.total) == (len(target.modules("cross_kv")),) * 2
    (patch,) = attn2_patches(done.model)
    rows, query = torch.randn(1, 5, target.info.width), torch.randn(1, 4, 8)
    delta = edit.deltas["unet"]["context"]
    wanted = rows + 0.5 * rows @ delta.A.T @ delta.B.T
    q, k, v = patch(query, rows, rows, {})
    assert q is query
    assert k is v
    assert torch.allclose(k, wanted, atol=1e-5)
    other = rows + 1
    assert torch.allclose(patch(query, rows, other, {})[2], other + 0.5 * other @ delta.A.T @ delta.B.T, atol=1e-5)


def test_two_maps_add_up_in_one_patch(target):
    first, second = context_edit(target.info.width), context_edit(target.info.width, 1)
    one = apply_edit(target, first, 1.0, touch_weights=False).model
    two = apply_edit(ComfyTarget(one), second, 1.0, touch_weights=False).model
    rows = torch.randn(1, 5, target.info.width)
    maps = [edit.deltas["unet"]["context"] for edit in (first, second)]
    wanted = rows + sum(rows @ item.A.T @ item.B.T for item in maps)
    (patch,) = attn2_patches(two)
    assert torch.allclose(patch(rows, rows, rows, {})[1], wanted, atol=1e-4)
    assert len(attn2_patches(one)[0].maps) == 1


def test_strength_0_gives_the_very_same_objects(target):
    done = apply_edit(target, context_edit(target.info.width), 0.0)
    assert done.model is target.model
    assert "(off)" in done.report("x", 0.0)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_quantised_weights_get_wrappers_that_are_exact(fake_model, dtype):
    model, _ = fake_model
    plain = ComfyTarget(model)
    ref = plain.modules("cross_kv")[0]
    key = plain.key("unet", ref.weight)
    model.weights = {name: value.to(dtype) for name, value in model.weights.items()}
    target = ComfyTarget(model)
    delta = LowRank(1e-4 * torch.ones(1, ref.shape[1]), torch.ones(ref.shape[0], 1))
    done = apply_edit(target, Edit("sd1", {"unet": {ref.weight: delta}}), 0.5)
    assert model.weight_wrapper_patches == {}
    (wrapper,) = done.model.weight_wrapper_patches[key]
    used = model.weights[key].float()
    assert torch.equal(wrapper(used), used + 0.5 * delta.dense())
    assert torch.equal(ComfyTarget(done.model).weight(ref), used + 0.5 * delta.dense())  # the next erase node sees it
    assert "weight wrappers" in done.report("x", 0.5)
    assert f"stored as {str(dtype).removeprefix('torch.')}" in done.report("x", 0.5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_other_weights_get_patches_that_checkpoints_hold(fake_model, dtype, monkeypatch):
    model, _ = fake_model
    model.weights = {name: value.to(dtype) for name, value in model.weights.items()}
    target = ComfyTarget(model)
    ref = target.modules("cross_kv")[0]
    delta = LowRank(torch.ones(1, ref.shape[1]), torch.ones(ref.shape[0], 1))
    monkeypatch.setattr(patches, "_as_patches", lambda deltas, _: deltas)
    done = apply_edit(target, Edit("sd1", {"unet": {ref.weight: delta}}), 0.5)
    assert done.model.patches == {target.key("unet", ref.weight): [(0.5, delta, 1.0, None, None)]}
    assert done.model.weight_wrapper_patches == {}
    assert done.unsaved == ()


def test_partial_matches_are_refused_with_counts(target):
    refs = target.modules("cross_kv")[:2]
    good = {ref.weight: LowRank(torch.ones(1, ref.shape[1]), torch.ones(ref.shape[0], 1)) for ref in refs}
    bad = {**good, "no.such.weight": next(iter(good.values()))}
    with pytest.raises(BaseMismatch, match=r"patched 2 of 3 modules .* no\.such\.weight: not in this model"):
        apply_edit(target, Edit("sd1", {"unet": bad}), 1.0)
    wrong = {**good, refs[0].weight: LowRank(torch.ones(1, 7), torch.ones(9, 1))}
    with pytest.raises(BaseMismatch, match="patched 1 of 2 modules"):
        apply_edit(target, Edit("sd1", {"unet": wrong}), 1.0)


def test_a_map_of_another_width_is_refused(target):
    with pytest.raises(BaseMismatch, match="text rows of 9"):
        apply_edit(target, context_edit(9), 1.0)


@pytest.mark.parametrize(
    ("path", "addon", "error", "text"),
    [
        ("mid_block.resnets.0", bottleneck(4), Unsupported, "must follow an attention layer"),
        ("nowhere.attn2", bottleneck(4), Unsupported, "has no place in ComfyUI"),
        (LAYER, bottleneck(4), BaseMismatch, "patched 0 of 1 modules .* add-on is for 4 channels"),
        (LAYER.replace("blocks.0", "blocks.9"), bottleneck(4), BaseMismatch, "not in this model"),
        (LAYER, AddOn("magic", {}, {}), Unsupported, "add-ons of type 'magic' cannot be used"),
    ],
)
def test_add_ons_without_a_place_are_refused(target, path, addon, error, text):
    with pytest.raises(error, match=text):
        apply_edit(target, Edit("sd1", {"unet": {path: addon}}), 1.0)


def test_an_add_on_follows_its_layer_only_and_strength_0_hangs_nothing(target):
    size = target.part("unet").stored(target.key("unet", f"{LAYER}.to_out.0.weight")).shape[0]
    addon = AddOn("bottleneck", {**bottleneck(size).weights}, {"activation": "identity", "strength": 0.5})
    edit = Edit("sd1", {"unet": {LAYER: addon}})
    assert apply_edit(target, edit, 0.0).model is target.model
    done = apply_edit(target, edit, 0.5)
    assert "attn2_output_patch" not in target.model.model_options["transformer_options"].get("patches", {})
    (patch,) = done.model.model_options["transformer_options"]["patches"]["attn2_output_patch"]
    x = torch.randn(1, 3, size)
    wanted = x + 0.25 * x.sum(-1, keepdim=True)
    assert torch.allclose(patch(x, {"block": ("middle", 0), "block_index": 0}), wanted, atol=1e-5)
    assert patch(x, {"block": ("input", 1), "block_index": 0}) is x
    assert copy.deepcopy(patch) is patch is patch.to(torch.device("cpu"))
    assert "not in models that are saved or merged behind this node: add-ons are no weights" in done.report("x", 0.5)


def test_text_encoder_changes_need_the_clip(target):
    edit = Edit("sd1", {"text_encoder": {"a.weight": LowRank(torch.ones(1, 4), torch.ones(4, 1))}})
    with pytest.raises(Unsupported, match="connect the CLIP"):
        apply_edit(target, edit, 1.0)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 101.0])
def test_unusable_strengths_are_refused(target, value):
    with pytest.raises(RequestError, match="not a usable number"):
        apply_edit(target, context_edit(target.info.width), value)


def test_clones_of_a_model_do_not_copy_the_map(target):
    (patch,) = attn2_patches(apply_edit(target, context_edit(target.info.width), 1.0, touch_weights=False).model)
    assert copy.deepcopy(patch) is patch
    assert isinstance(patch.to(torch.device("cpu")), ContextPatch)
    assert patch.to(torch.float16) is patch


def test_a_wrapper_keeps_the_compute_type():
    wrapper = WeightWrapper(LowRank(torch.ones(1, 3), torch.ones(2, 1)), 1.0)
    assert wrapper(torch.zeros(2, 3, dtype=torch.float16)).dtype == torch.float16
