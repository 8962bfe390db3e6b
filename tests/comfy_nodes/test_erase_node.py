"""The Erase node on the MODEL of a real ComfyUI: chains, switches, strengths, report, pictures, refusals."""

from __future__ import annotations

import pytest

pytestmark = [pytest.mark.comfy, pytest.mark.slow]


@pytest.fixture(scope="module")
def numbers(in_comfy):
    """What erase_node.py measured."""
    return in_comfy("erase_node.py")


def test_three_nodes_disturb_neighbours_no_more_than_one(numbers):
    """Added up, as nodes of version 0.1 are, the same three erasures disturb them half as much again."""
    assert numbers["chain_output"] < 1e-5
    assert numbers["effect"] > 0.01
    assert numbers["drift"]["chain"] == pytest.approx(numbers["drift"]["whole"], rel=1e-4)
    assert numbers["drift"]["added"] > 1.2 * numbers["drift"]["whole"]
    assert numbers["chain_edit"] == ["car", "dog", "pizza"]
    assert "together with earlier erase nodes: dog, car" in numbers["chain_report"]


def test_off_and_strength_0_are_the_very_same_model(numbers):
    assert numbers["off_is_base"]
    assert numbers["zero_is_base"]
    assert numbers["base_after"]


def test_rows_have_strengths_of_their_own(numbers):
    residual = {line.split(":")[0]: float(line.split("residual ")[1].split(" %")[0])
                for line in numbers["mixed_report"].splitlines() if "residual" in line}  # fmt: skip
    assert set(residual) == {"dog", "car"}  # pizza has strength 0
    assert residual["dog"] > 50 > residual["car"]
    assert numbers["half"] < 1e-6


def test_the_report_tells_how_much_is_left(numbers):
    assert "pizza: " in numbers["report"] and "(residual " in numbers["report"]
    assert "patched 14 of 14 modules" in numbers["report"]


def test_before_and_after_are_shown_where_a_vae_is_connected(numbers):
    (shown,) = numbers["pictures"]
    assert (len(shown["images"]), shown["prompt"], shown["seed"]) == (2, "pizza", 0)
    assert "'pizza' before and after, from the same noise" in numbers["drawn_report"]


def test_how_much_is_left_goes_to_the_row_of_its_concept(numbers):
    said = float(numbers["drawn_report"].split("residual ")[1].split(" %")[0]) / 100
    assert numbers["left"] == {"pizza": pytest.approx(said, abs=6e-4)}


def test_a_lora_behind_that_brings_the_concept_back_is_told(numbers):
    (back,) = numbers["behind shifts_text"]
    assert back.startswith("shifts_text.safetensors brings back 'pizza' (")
    assert back.endswith("put it in front of this node")
    (named,) = numbers["behind pizza_look"]
    assert "was made for 'pizza' by its own description" in named
    assert numbers["behind unrelated"] == []  # pizzazz is no pizza
    (missing,) = numbers["behind off"]
    assert missing.startswith("gone.safetensors behind this node was not looked at")


def test_a_search_measures_as_comfyui_draws_gates_included(numbers):
    assert numbers["asked"] < 1e-4  # another path through the same denoiser
    assert numbers["asked_gated"] < 1e-4
    assert numbers["asked_xl"] < 1e-4  # which reads pooled rows and the size of the picture too
    assert numbers["gated"] > 0.01


def test_a_gated_erasure_in_front_makes_another_model_of_it(numbers):
    """A search or training is found again by the model's name; what is in front of it belongs to that."""
    bare, gated, other, same = numbers["names"]
    assert len({bare, gated, other}) == 3 and same == gated


def test_a_stopped_search_is_gone_on_with_and_gives_an_erasure(numbers):
    assert len(numbers["stopped"]) == 2  # in the second trial, which is done again
    assert numbers["searched"][:3] == [*numbers["stopped"], numbers["stopped"][1]]
    first = numbers["auto_report"].splitlines()[0]
    assert first.startswith("auto took ") and " of the direction towards 'pizza' is left" in first
    (left,) = numbers["auto_left"]
    assert left["concept"] == "pizza" and f"{100 * left['left']:.1f} %" in first
    assert numbers["auto_anchors"] == ["hamburger"]  # what the row says is kept in all trials
    assert numbers["auto_picture"]
    assert numbers["auto_output"] > 0.01


def test_refusals_say_what_to_write(numbers):
    assert "no option of 'uce' named 'preserv'" in numbers["wrong option"]
    assert "write name = value" in numbers["wrong line"]
    assert "did you mean 'uce'" in numbers["wrong method"]
    assert "trains all rows together; give them one strength" in numbers["wrong strengths"]
    assert "auto searches for one concept; put an erase node for each" in numbers["wrong rows"]
