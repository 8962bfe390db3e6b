"""Methods that train, inside ComfyUI: the same predictions and gradients as diffusers, pictures, stop, resume, refusals."""

from __future__ import annotations

import re

import pytest

from comfy_nodes.nodes.methods import drawing_methods

pytestmark = [pytest.mark.comfy, pytest.mark.slow]


@pytest.fixture(scope="module")
def numbers(in_comfy, tmp_path_factory):
    """What training.py measured."""
    return in_comfy("training.py", str(tmp_path_factory.mktemp("training")))


def test_predictions_and_gradients_are_those_of_diffusers(numbers):
    assert numbers["latents"][0] == numbers["latents"][1]
    assert numbers["predict"] < 5e-6
    assert numbers["modules"][0] == numbers["modules"][1] > 50
    assert numbers["gradient"] < 5e-5


@pytest.mark.parametrize("kind", ["ddim", "euler"])
def test_samplers_follow_the_schedule_of_the_model(numbers, kind):
    ours, theirs = numbers[f"times_{kind}"]
    assert ours == theirs
    assert numbers[f"step_{kind}"] < 1e-5


def test_text_encoders_can_be_trained(numbers):
    assert numbers["tokens"]
    same, encoded, gradient, modules, moved, pull, difference = numbers["encoder"]
    assert same == 0
    assert modules == 24
    assert max(encoded, moved) < 5e-6
    assert max(gradient, pull) < 1e-4
    assert difference > 1e-3


def test_a_training_run_equals_the_one_of_the_command_line(numbers):
    assert numbers["trained_size"] > 1
    assert numbers["trained"] < 1e-3


def test_the_node_trains_and_leaves_the_model_alone(numbers):
    assert numbers["effect"] > 0.01
    assert numbers["base_after"]
    assert numbers["clip_same"]
    assert re.search(r"patched (\d+) of \1 modules", numbers["report"])
    assert numbers["last_step"] == [4, 4]


def test_pictures_are_shown_every_k_steps(numbers):
    assert numbers["pictures"] == [[2, 64, 64], [4, 64, 64]]
    assert "2 pictures shown while training" in numbers["report"]
    assert "2 pictures shown while training" in numbers["rough"]  # without a VAE


def test_another_strength_does_not_train_again_and_0_is_the_base(numbers):
    assert numbers["not_again"] == [0, True]
    assert numbers["off"]


def test_a_finished_run_is_found_on_disk_and_another_model_is_another_run(numbers):
    assert numbers["from_disk"].startswith("made earlier by the same request, kept in output/erase_plugins/pizza_")
    assert numbers["from_disk_same"]
    assert numbers["chained"] > 0.01


def test_a_stop_keeps_what_was_done_and_the_next_run_goes_on_to_the_same_bits(numbers):
    assert numbers["stopped"] == "yes"
    assert numbers["flag_after"] is False
    assert len(numbers["left"]) == 1
    assert numbers["base_after_stop"]
    assert "resume: step 4" in numbers["resumed"]
    assert numbers["resumed_same"]
    assert numbers["left_after"] == []


def test_a_checkpoint_alone_makes_the_edit_and_the_outputs_say_what_is_missing(numbers):
    blocked, message, report = numbers["alone"]
    assert blocked
    assert message.startswith("connect MODEL (and CLIP)")
    assert "erase_pizza: made for pocket" in report
    assert numbers["put"] > 0.01


@pytest.mark.parametrize("method", [entry.item.id for entry in drawing_methods()])
def test_every_method_runs_on_the_connected_model(numbers, method):
    assert re.search(r"patched (\d+) of \1 modules", numbers["methods"][method]), numbers["methods"][method]


def test_a_closed_form_method_is_the_special_node(numbers):
    assert numbers["closed_form"] == 0


@pytest.mark.parametrize(
    ("case", "text"),
    [
        ("nothing", "nothing to erase from; connect MODEL and CLIP"),
        ("no clip", "nothing to erase from; connect MODEL and CLIP"),
        ("missing", "no model 'nowhere.safetensors' in models/checkpoints"),
        ("outside", "'/etc' lies outside models/checkpoints"),
        ("option", "option iterations=0 is below its minimum 1"),
        ("word", "option iterations='many' is not of type int"),
        ("arrow", "esd erases towards the empty prompt"),
    ],
)
def test_what_cannot_be_done_is_refused_in_our_words(numbers, case, text):
    assert text in numbers["refusals"][case]
