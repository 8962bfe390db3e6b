"""What ComfyUI's own nodes save and merge of an erased model is erased."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

pytestmark = [pytest.mark.comfy, pytest.mark.slow]


def write_lora(checkpoint, file):
    """A random LoRA on all keys and values of text attention, in the words of the stock loader."""
    draw = torch.Generator().manual_seed(5)
    keys = {
        name: value
        for name, value in load_file(checkpoint).items()
        if name.endswith(("attn2.to_k.weight", "attn2.to_v.weight"))
    }
    tensors = {}
    for name, value in keys.items():
        stem = name.removeprefix("model.").removesuffix(".weight")
        up, down = (torch.randn(shape, generator=draw) for shape in ((value.shape[0], 4), (4, value.shape[1])))
        tensors[f"{stem}.lora_up.weight"], tensors[f"{stem}.lora_down.weight"] = 0.02 * up, 0.02 * down
    save_file(tensors, file)


@pytest.fixture(scope="module")
def numbers(in_comfy, small_checkpoint, tmp_path_factory):
    """What baking.py measured."""
    work = tmp_path_factory.mktemp("baking")
    for name in ("models/checkpoints", "models/loras", "models/diffusion_models", "models/text_encoders", "output"):
        (work / name).mkdir(parents=True)
    base = work / "models" / "checkpoints" / "small.safetensors"
    base.hardlink_to(small_checkpoint)
    write_lora(base, work / "models" / "loras" / "look.safetensors")
    return in_comfy("baking.py", str(work))


def test_a_checkpoint_of_an_erased_model_draws_the_erased_pictures_in_stock_nodes(numbers):
    assert numbers["live_to_base"] > 0.01
    assert numbers["saved_to_live"] < 1e-4
    assert numbers["half_to_live"] < 1e-4
    assert numbers["denoiser_to_live"] < 1e-4


def test_exactly_the_keys_and_values_of_text_attention_differ_in_the_file(numbers):
    """Four transformer blocks: eight tensors."""
    assert len(numbers["differ"]) == 8
    assert all(name.endswith(("attn2.to_k.weight", "attn2.to_v.weight")) for name in numbers["differ"])
    assert "context map in the weights" in numbers["report"]
    assert "saved or merged" not in numbers["report"]


def test_strength_0_is_the_very_same_model_and_the_base_draws_as_before(numbers):
    assert numbers["off"]
    assert numbers["base_after"]


@pytest.mark.parametrize("part", ["merged_first", "merged_second", "subtracted", "added", "lora_of_the_difference"])
def test_nodes_that_merge_take_the_edit_along(numbers, part):
    """Relative to the largest change of a weight; a merge at one half holds half of it."""
    assert numbers["effect"] == 8
    assert numbers[part] < (1e-3 if part == "lora_of_the_difference" else 1e-5)  # that one is written in fp16
    assert numbers["lora_effect_of_the_difference"] > 0.1


def test_a_merged_model_can_be_erased_again(numbers):
    assert numbers["erased_again"] < 1e-5


def test_loras_on_either_side_and_further_erasures_are_as_if_text_rows_were_mapped(numbers):
    assert numbers["lora_effect"] > 0.001
    assert numbers["erasures_are_large"] > 0.005
    for part in ("lora_behind", "lora_in_front", "lora_taken_back", "two_nodes", "first_stays"):
        assert numbers[part] < 1e-5


def test_changes_of_the_text_encoder_are_in_checkpoints_and_in_files_of_clip(numbers):
    assert numbers["clip_effect"] > 0.01
    assert numbers["clip_in_checkpoint"] < 1e-5
    assert numbers["clip_alone"] < 1e-5
    assert numbers["clip_base_after"]
    assert "saved or merged" not in numbers["clip_report"]


def test_the_bake_node_keeps_a_file_that_draws_what_the_graph_drew(numbers):
    name, report = numbers["baked"]
    assert name == "baked/no_van_gogh_00001_.safetensors"
    assert numbers["baked_again"] == "baked/no_van_gogh_00002_.safetensors"
    assert numbers["baked_to_live"] < 1e-4
    assert "checked: the file draws 'van gogh' as this graph does" in report
    assert "van gogh: " in report and "warning" not in report


def test_the_bake_node_warns_of_a_merge(numbers):
    assert "warning: a merge behind the erase node mixed other weights" in numbers["baked_merge"]


def test_the_bake_node_refuses_what_a_file_would_not_hold_and_leaves_nothing(numbers):
    assert "a checkpoint would not hold everything" in numbers["bake_front"]
    assert "draws 'van gogh' differently from this graph" in numbers["bake_draws"]
    assert numbers["bake_front_left"] == numbers["bake_draws_left"] == []
