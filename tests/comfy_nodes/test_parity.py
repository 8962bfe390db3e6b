"""Our nodes in a real ComfyUI process give what diffusers gives; the base model stays as it was, to the last bit."""

from __future__ import annotations

import re
import shutil

import pytest
from safetensors.torch import save_file

from erase_plugins.artifacts.edit import AddOn, Edit
from erase_plugins.artifacts.tensors import read_tensors
from erase_plugins.manager import get_manager
from tests.comfy_nodes.conftest import ROOT, context_edit, save_edits
from tests.layouts.making import artifact_of, bias_edit, bottleneck_edit, dense_edit, gated_edit, random_edit, rows_edit

pytestmark = [pytest.mark.comfy, pytest.mark.slow]
FILES = tuple(f"foreign_{name}.safetensors" for name in ("diffusers", "kohya", "peft"))
KINDS = ("addon", "bias", "gate", "contextmap", "dense", "lowrank", "rows")


def write_foreign(target, edit, work):
    """The same low-rank edit as other programs write it (no manifest of ours), and one of ours among the LoRAs."""
    manager, place, loras = get_manager(), work / "models" / "erase_plugins", work / "loras"
    loras.mkdir()
    denoiser = Edit(edit.family, {"unet": edit.deltas["unet"]})
    for layout, content in (("kohya", edit), ("diffusers", edit), ("peft", denoiser)):
        folder = work / f"written_{layout}"
        folder.mkdir()
        written = folder / manager.layout(layout).filename("x", target.family)
        manager.layout(layout).write(content, target.family, {"format": "pt"}, written)
        (file,) = folder.rglob("*.safetensors")
        tensors, _ = read_tensors(file)
        save_file(tensors, place / f"foreign_{layout}.safetensors", metadata={"format": "pt"})
        if layout == "peft":
            shutil.copy(file.with_name("adapter_config.json"), place / "adapter_config.json")
        if layout == "kohya":
            save_file(tensors, loras / "somebody.safetensors", metadata={"format": "pt"})
    artifact_of(target, edit, "ours").save(work / "ours", ("kohya",))
    (file,) = (work / "ours").glob("*.safetensors")
    shutil.copy(file, loras / "ours.safetensors")


def nearly(edit):
    """Another edit of added modules, which reads a little differently; a weaker one would be the same one."""
    deltas = {
        component: {
            key: AddOn(item.type, {name: part * (0.9 if name == "down" else 1.0) for name, part in item.weights.items()}, item.config)
            for key, item in group.items()
        }
        for component, group in edit.deltas.items()
    }  # fmt: skip
    return Edit(edit.family, deltas)


@pytest.fixture(scope="module")
def numbers(in_comfy, pocket_target, tmp_path_factory):
    """What parity.py measured."""
    work = tmp_path_factory.mktemp("parity")
    edits = {
        "lowrank": random_edit(pocket_target, ("denoiser", "text")),
        "dense": dense_edit(pocket_target),
        "contextmap": context_edit(pocket_target.info.width),
        "bias": bias_edit(pocket_target),
        "rows": rows_edit(pocket_target, "pizza"),
        "addon": bottleneck_edit(pocket_target),
        "gate": gated_edit(pocket_target),
    }
    twins = {f"{name}_again": nearly(edits[name]) for name in ("addon", "gate")}  # the same one twice is refused
    save_edits(pocket_target, {**edits, **twins}, work)
    write_foreign(pocket_target, edits["lowrank"], work)
    sizes = {name: len(edit) for name, edit in edits.items()}
    sizes["gate"] -= 1  # the gate itself patches nothing
    sizes["contextmap"] = len(pocket_target.modules("cross_kv"))  # the modules that the map stands in front of
    # neither program takes from the other what it has kept of the common words
    return {**in_comfy("parity.py", str(work), env={"ERASE_PLUGINS_CACHE": "0"}), "sizes": sizes}


def test_the_package_under_test_is_this_one(numbers):
    assert numbers["file"] == str(ROOT / "erase_plugins" / "__init__.py")


@pytest.mark.parametrize("part", ["text_encoder", "unet", "vae_decode"])
def test_pocket_is_the_same_model(numbers, part):
    assert 0 <= numbers[part] < 5e-6


def test_pocket_encodes_to_its_own_latent_size(numbers):
    assert numbers["vae_shape"] == [[1, 4, 16, 16], [1, 4, 16, 16]]


@pytest.mark.parametrize("method", ["uce", "rece"])
def test_erasing_in_the_graph_equals_the_command_line(numbers, method):
    assert numbers[f"{method}_same_base"]
    assert numbers[f"{method}_output"] < 1e-6
    assert numbers[f"{method}_effect"] > 0.01


@pytest.mark.parametrize("method", ["uce", "rece"])
def test_the_artifact_of_the_graph_is_that_of_the_command_line(numbers, method):
    """Equal bits of text rows, though samplers get rows that round differently; so the solved maps are equal, too."""
    found = numbers[f"{method}_solutions"]
    assert 0 < found["rows as sampled"] < 2e-7
    assert found["rows"] == 0
    assert found["map"] < 1e-6
    assert found["first rows"] == 0
    assert found["first rows against all"] < 1e-6
    assert found["map of first rows"] < 1e-6


@pytest.mark.parametrize("method", ["uce", "rece"])
def test_strength_0_and_the_base_are_bit_exact(numbers, method):
    assert numbers[f"{method}_off"]
    assert numbers[f"{method}_base_after"]


def test_maps_of_two_nodes_share_one_patch_and_the_first_model_keeps_its_own(numbers):
    assert numbers["keys_of_two"] == [numbers["sizes"]["contextmap"], True]
    assert numbers["patches_of_two"] == [[1], [1]]
    assert numbers["two_nodes"] < 5e-6


@pytest.mark.parametrize("kind", KINDS)
def test_a_loaded_artifact_equals_apply(numbers, kind):
    found = numbers[f"load_{kind}"]
    assert found["output"] < 5e-6
    assert found["text"] < 5e-6
    assert found["changed"] > 0.01
    assert found["base_after"]
    size = numbers["sizes"][kind]
    assert f"patched {size} of {size} modules" in found["report"]


def test_text_encoder_changes_reach_the_clip(numbers):
    changed = {kind: numbers[f"load_{kind}"]["clip_changed"] for kind in KINDS}
    assert changed.pop("lowrank") > 0.01
    assert changed.pop("rows") > 0.01
    assert set(changed.values()) == {0}


def test_add_ons_of_two_nodes_follow_each_other(numbers):
    assert numbers["two_addons"] < 5e-6


def test_a_gate_opens_for_its_concept_only_and_leaves_the_shared_model_alone(numbers):
    found = numbers["gates"]
    assert found["pizza"] > 0.01
    assert found["dog"] == 0
    assert found["two"] < 5e-6
    assert found["base_while_loaded"]
    assert "put the node that trains in front of it" in found["training"]


@pytest.mark.parametrize("node", ["patch", "conditioning"])
def test_a_map_on_the_model_or_on_the_prompt_equals_apply(numbers, node):
    assert numbers[f"embedding_{node}"] < 5e-6
    assert numbers[f"embedding_{node}_off"]
    assert "not one context map; use 'Erase: load artifact'" in numbers["embedding_refusal"]


def test_a_saved_edit_is_listed_and_works_in_the_stock_lora_loader(numbers):
    assert numbers["saved"] == "from_the_graph"
    twins = ("addon_again", "gate_again")
    saved = ("from_the_graph", numbers["copied"], "ours.safetensors", "pocket_red.safetensors")  # the last comes along
    assert numbers["listed"] == sorted([*KINDS, *twins, *FILES, *saved])
    assert numbers["stock_lora"] < 5e-6


@pytest.mark.parametrize("file", ["foreign_kohya", "foreign_diffusers", "foreign_peft", "ours"])
def test_loras_of_other_programs_and_ours_among_the_loras_are_loaded(numbers, file):
    output, text, report = numbers["foreign"][f"{file}.safetensors"]
    assert output < 5e-6
    assert text < 5e-6
    assert re.search(r"patched (\d+) of \1 modules", report)
    assert ("erases: pizza" if file == "ours" else "erases: not named") in report


def test_only_loras_with_our_manifest_are_listed(numbers):
    assert numbers["listed_loras"] == ["ours.safetensors"]
    assert numbers["referred"] < 5e-6


def test_a_lora_in_front_takes_part(numbers):
    assert numbers["effective"] < 1e-6
    assert numbers["base_weight"]


def test_another_strength_is_not_solved_again(numbers):
    assert numbers["uce_solves"] == 1
