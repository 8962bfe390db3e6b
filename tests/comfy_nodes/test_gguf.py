"""On weights that only their modules can read, as those of GGUF files, an edit does what it does in fp32."""

from __future__ import annotations

import pytest

from tests.comfy_nodes.conftest import plain_edits, save_edits

pytestmark = [pytest.mark.comfy, pytest.mark.slow]
EDITS = ("lowrank", "dense", "contextmap")


@pytest.fixture(scope="module")
def numbers(in_comfy, pocket_target, tmp_path_factory):
    """What packed.py measured."""
    work = tmp_path_factory.mktemp("gguf")
    save_edits(pocket_target, plain_edits(pocket_target), work)
    found = in_comfy("packed.py", str(work))
    assert found["same_base"] < 1e-5
    return found


@pytest.mark.parametrize("name", [*EDITS, "erased"])
def test_an_edit_acts_as_on_the_same_weights_in_fp32_and_leaves_the_model_as_it_was(numbers, name):
    """Wrappers around weights, which other quantised models take, are never called there."""
    found = numbers[name]
    assert found["effect"] > 0.01
    assert found["error"] < 1e-5
    assert found["base_after"]
    assert "behind this node: the weights are those of a GGUF file" in found["report"]


def test_weights_are_read_without_the_patches_that_hang_on_them(numbers):
    """While a model is loaded, the pack keeps the LoRAs of others on the tensors, which clones without them share."""
    found = numbers["read"]
    assert found["change"] > 0.01
    assert {name: found[name] < 1e-5 for name in ("base", "effective", "clone", "rows", "after")} == dict.fromkeys(
        ("base", "effective", "clone", "rows", "after"), True
    )
    assert found["shape"]


def test_an_artifact_for_the_model_in_16_bits_fits_and_what_was_not_compared_is_told(numbers):
    assert "cannot be read (quantised or offloaded) and were not compared" in numbers["lowrank"]["report"]


def test_a_curve_over_time_is_refused_where_it_would_not_act(numbers):
    assert "cannot follow a curve over time on a GGUF model" in numbers["curve"]
