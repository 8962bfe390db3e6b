"""Stacks, libraries, curves, probes and reports on the MODEL of a real ComfyUI."""

from __future__ import annotations

import json

import pytest

import erase_plugins as ep
from erase_plugins.workflow.collection import build_collection
from tests.layouts.making import artifact_of, random_edit

pytestmark = [pytest.mark.comfy, pytest.mark.slow]
FAST = {"vocabulary": 200}
NAMES = ("pizza", "dog", "car", "cat", "apple", "tree")


@pytest.fixture(scope="module")
def numbers(in_comfy, pocket_target, tmp_path_factory):
    """What stacks.py measured."""
    work = tmp_path_factory.mktemp("stacks")
    place, loras = work / "models" / "erase_plugins", work / "loras"
    loras.mkdir()
    known = [item.name for item in pocket_target_world()]
    names = [name for name in NAMES if name in known]
    made = [ep.erase(pocket_target, name, options=FAST) for name in names]
    for artifact in made[:2]:
        artifact.save(place / artifact.name, target=pocket_target)
    hamburger = ep.erase(pocket_target, ep.Concept("pizza", anchor="hamburger"), options=FAST, keep=["a cat"])
    hamburger = hamburger.with_manifest(name="erase_pizza_hamburger")
    saved = hamburger.save(place / "pizza_hamburger", target=pocket_target)
    (kohya,) = (item.name for item in saved.manifest.files if item.layout == "kohya")
    (loras / kohya).write_bytes((place / "pizza_hamburger" / kohya).read_bytes())
    lora = artifact_of(pocket_target, random_edit(pocket_target, ("denoiser",), size=0.01), "lora")
    lora.with_manifest(concepts=(ep.Concept("a look"),)).save(place / "lora", ("patch",))
    for name, group, size in (("style", "cross_kv", 0.02), ("text", "text", 0.02)):
        folder = work / name
        kept = artifact_of(pocket_target, random_edit(pocket_target, (group,), size=size), name).save(
            folder, ("kohya",)
        )
        (file,) = (item.name for item in kept.manifest.files)
        (loras / f"{name}.safetensors").write_bytes((folder / file).read_bytes())
    build_collection(made, place / "shelf")
    (work / "names.json").write_text(json.dumps([artifact.name for artifact in made]))
    return {**in_comfy("stacks.py", str(work)), "names": [artifact.name for artifact in made]}


def pocket_target_world():
    from erase_plugins.pocket.world import pocket_world

    return pocket_world().concepts


def test_a_stack_equals_the_joint_solution_in_diffusers(numbers):
    assert numbers["stack_output"] < 5e-6
    assert numbers["stack_edit"] < 5e-6
    assert numbers["stack_effect"] > 0.01
    assert "solved jointly: erase_pizza, erase_dog" in numbers["stack_report"]


def test_taking_out_is_never_having_had_to_the_last_bit(numbers):
    assert numbers["revoked_is_never"]
    assert numbers["all_revoked_is_base"]
    assert "left: dog" in numbers["revoke_report"]


def test_strength_0_is_the_very_same_model_and_the_base_stays(numbers):
    assert numbers["off_is_base"]
    assert numbers["base_after"]
    assert numbers["base_after_sampling"]


def test_a_lora_behind_a_lora_file_brings_the_concept_back_and_solving_again_does_not(numbers):
    """The level without a LoRA is reached again by the stack node behind the LoRA."""
    key = "residual pizza"
    level = numbers["no_lora"][key]
    assert numbers["no_lora_file"][key] == pytest.approx(level, rel=0.01)
    assert numbers["lora_after_file"][key] > 1.3 * level
    for way in ("solved_again", "through_lora_stack", "lora_after_map"):
        assert numbers[way][key] < 1.1 * level
        assert numbers[way]["drift a cat"] < 0.05


def test_behind_a_text_encoder_lora_the_phrases_are_encoded_anew(numbers):
    key = "residual pizza"
    assert numbers["text_lora_stored"][key] > 1.3 * numbers["text_lora_anew"][key]
    assert numbers["text_lora_anew"][key] < 1.5 * numbers["no_lora"][key]


def test_lora_stacks_of_others_go_in_and_out(numbers):
    assert numbers["through_emitted"] == [
        ["style.safetensors", 1.0, 0.0],
        ["erase_pizza_hamburger_sd1_kohya.safetensors", 1.0, 1.0],
    ]
    assert "LoRA style.safetensors: patched" in numbers["through_report"]
    assert numbers["lora_stack"] == []
    assert "models/loras has no file of it" in numbers["stack_report"]


def test_two_nodes_and_a_style_lora_are_the_three_changes_in_python(numbers):
    assert numbers["two_nodes_and_a_lora"] < 5e-6


def test_the_probe_says_what_came_back(numbers):
    assert "what came later brings back" in numbers["probe_text"]
    assert "put the erase node last" in numbers["probe_text"]
    assert numbers["probe_chart"][3] == 3


@pytest.mark.parametrize("name", ["erase_pizza", "lora"])
def test_a_curve_over_time(numbers, name):
    assert numbers[f"{name}_effect"] > 0.01
    assert numbers[f"{name}_constant"] < 5e-5  # three steps; the weights are added at another place
    assert numbers[f"{name}_curve_in_a_stack"] < 5e-5
    assert numbers[f"{name}_never"]
    for part in ("early", "late"):
        assert numbers[f"{name}_{part}"] > 0.001
        assert numbers[f"{name}_{part}_effect"] > 0.001
    assert "no file can carry" in numbers[f"{name}_save"]


def test_factors_of_layers_are_the_same_in_diffusers(numbers):
    assert numbers["layers_output"] < 5e-6


@pytest.mark.parametrize("name", ["erase_pizza", "lora"])
def test_a_prompt_opens_the_gate_of_its_own_sample_only(numbers, name):
    assert numbers[f"{name}_gate_effect"] > 0.01
    assert numbers[f"{name}_gate_open"] < 5e-6
    assert numbers[f"{name}_gate_closed"]
    assert numbers[f"{name}_gate_diffusers"] < 5e-6
    assert numbers[f"{name}_gate_off"]
    assert "a pizza: open 100 %" in numbers[f"{name}_gate_report"]
    assert "a photo of a dog: open 0 %" in numbers[f"{name}_gate_report"]
    assert numbers["gate_thresholds"] == "low 0.7 must be below high 0.6"
    assert numbers["gate_base_after"]


def test_a_library_is_solved_jointly(numbers):
    assert numbers["collections"] == ["family_safe", "shelf"], "the one that comes with the nodes, and the own one"
    assert not any(name.startswith("shelf") for name in numbers["listed"])
    assert numbers["library_output"] < 5e-6
    assert numbers["library_off"]
    assert f"{len(numbers['names'])} of {len(numbers['names'])} in shelf" in numbers["library_report"]
    assert "did you mean 'erase_pizza'" in numbers["library_unknown"]


def test_the_quick_suite_runs_in_the_graph(numbers):
    rates = numbers["report"]
    assert rates["target_rate base"] >= 2 / 3
    assert rates["target_rate edited"] <= 1 / 3
    assert not [text for text in numbers["report_warnings"] if "strength 0" in text]
    assert all(shape[0] == 1 and shape[3] == 3 for shape in numbers["report_shapes"])


def test_an_attack_runs_in_the_graph(numbers):
    """Without the edit the words still bring a pizza; long descriptions are cut as diffusers cuts them."""
    edited, left_off = numbers["attack_1"], numbers["attack_0"]
    assert left_off["prompt"] and "came back: " in left_off["text"]
    assert left_off["shape"][1:] == edited["shape"][1:] == [64, 64, 3]
    assert ("nothing came back" in edited["text"]) is (edited["prompt"] == "")
    assert "control, destroyed: 0 %" in edited["text"]
    assert "named 'zeppelin'" in numbers["attack_unknown"]


def test_a_reference_model_is_the_control_of_an_attack(numbers):
    """The graph's own model draws pizzas by these words without the edit; the reference, by its own pipeline, none."""
    lines = numbers["attack_reference"].splitlines()
    assert "control: reference model: 0 %" in "\n".join(lines)
    assert not [line for line in lines if line.startswith("note: no reference")]
    assert "reference: no folder 'folder' on the machine that runs ComfyUI" in numbers["attack_nowhere"]
    assert "has no model_index.json" in numbers["attack_empty"]
    assert "attack bare has no control on a reference model; leave 'reference' empty" in numbers["attack_not_taken"]


def test_given_pictures_are_measured(numbers):
    assert numbers["given"]["mean_change edited"] == pytest.approx(numbers["given_wanted"], abs=1e-5)
    assert set(numbers["given"]) == {
        "mean_change edited", "changed_share edited", "target_rate base", "target_rate edited",
    }  # fmt: skip
    assert "missing are model, clip, vae, edit" in numbers["report_nothing"]
    assert "the other pictures" in numbers["report_half"]
    assert "looks at pictures of 64 x 64, these are 32 x 64" in numbers["report_size"]
