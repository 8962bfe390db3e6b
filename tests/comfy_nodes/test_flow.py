"""The Erase node on FLUX and Stable Diffusion 3: what diffusers solves, on the two layers where text enters."""

from __future__ import annotations

import pytest

pytestmark = [pytest.mark.comfy, pytest.mark.slow]


@pytest.fixture(scope="module")
def found(in_comfy, tmp_path_factory):
    return in_comfy("flow.py", str(tmp_path_factory.mktemp("flow")))


@pytest.fixture(params=["flux", "sd3"])
def numbers(request, found):
    return found[request.param]


def test_text_rows_are_those_of_diffusers(numbers):
    assert numbers["rows"] < 1e-5
    assert numbers["parts"]


def test_the_edit_is_that_of_diffusers(numbers):
    assert numbers["size"] > 0.1
    assert numbers["map"] < 1e-5 * max(numbers["size"], 1)
    assert numbers["changed"] > 1e-3
    assert numbers["weights"] < 1e-5 * max(numbers["size"], 1)


def test_what_the_node_changed_comes_off_to_the_last_bit(numbers):
    assert numbers["bit_exact"]
    assert numbers["untouched"]
    assert numbers["off"]


def test_the_report_tells_what_is_left(numbers):
    assert "pizza: " in numbers["text"]
    assert "% mapped to 'hamburger'" in numbers["text"]
    assert "patched 2 of 2 modules" in numbers["text"]


def test_a_second_node_solves_jointly(numbers):
    assert numbers["joint"] == ["dog", "pizza"]


def test_what_is_not_supported_is_said_in_one_sentence(numbers):
    assert "methods that train do not run on" in numbers["trains"]
    assert "this CLIP belongs to another model: it has no" in numbers["other_clip"]


def test_weights_in_eight_bits_stay_and_the_rows_are_mapped_in_front_of_them(numbers):
    found = numbers["eight_bit"]
    assert "not in models that are saved or merged" in found["text"]
    assert found["size"] > 0.1
    assert max(found["rows"], found["pooled"]) < 1e-5 * max(found["size"], 1)
    assert found["left"] == 0


def test_the_embedded_flow_transformer_is_loaded_and_erased(found):
    numbers = found["pocket-flow"]
    assert numbers["told"] == "drawn by pocket-flow, which comes with erase-plugins"
    assert numbers["latent"] == [1, 4, 16, 16]
    assert numbers["prediction"] < 1e-5
    assert numbers["still"] > 0.1
    assert numbers["map"] < 1e-5 * max(numbers["size"], 1)
    assert "patched 2 of 2 modules" in numbers["text"]
    assert numbers["pictures"] == 2


def test_pocket_natural_is_loaded_and_reads_free_phrasing_as_its_pipeline_does(found):
    numbers = found["pocket-natural"]
    assert numbers["told"] == "drawn by pocket-natural, which comes with erase-plugins"
    assert numbers["clip"] < 1e-4 < 0.05 < numbers["old"] and numbers["unet"] == 0
