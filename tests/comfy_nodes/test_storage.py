"""On a base that is stored in fp8 or bf16 an edit is as exact as on fp32, and the base stays as it was."""

from __future__ import annotations

import pytest

from tests.comfy_nodes.conftest import plain_edits, save_edits

pytestmark = [pytest.mark.comfy, pytest.mark.slow]


@pytest.fixture(scope="module")
def numbers(in_comfy, pocket_target, tmp_path_factory):
    """What storage.py measured."""
    work = tmp_path_factory.mktemp("storage")
    save_edits(pocket_target, plain_edits(pocket_target), work)
    return in_comfy("storage.py", str(work))


KINDS = ("lowrank", "dense", "contextmap")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("stored", "dtype"), [("fp8_e4m3", "torch.float8_e4m3fn"), ("fp8_e5m2", "torch.float8_e5m2")])
def test_an_edit_is_exact_on_quantised_storage_and_says_that_files_of_the_model_do_not_hold_it(
    numbers, stored, dtype, kind
):
    assert numbers[stored]["dtype"] == dtype
    found = numbers[stored][kind]
    assert found["error"] < 5e-6
    assert found["effect"] > 0.01
    assert found["base_after"]
    assert found["held"] == 0
    assert f"behind this node: the weights are stored as {dtype.removeprefix('torch.')}" in found["report"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("stored", "dtype", "step"), [
    ("bf16", "torch.bfloat16", 2**-8), ("fp16", "torch.float16", 2**-11),
])  # fmt: skip
def test_on_16_bit_storage_an_edit_is_that_of_fp32_rounded_once_as_a_saved_file_is(
    numbers, pocket_target, stored, dtype, step, kind
):
    """What the live model draws is what the file draws; the edit in front of the weights is as near as storage is."""
    assert numbers[stored]["dtype"] == dtype
    found = numbers[stored][kind]
    assert found["error_of_rounded"] < 5e-6
    assert found["error"] < 4 * step * found["effect"]  # of the edit: a few times the step of one weight
    assert found["effect"] > 0.01
    assert found["base_after"]
    assert found["held"] == len(pocket_target.modules("cross_kv")) or kind != "contextmap"
    assert found["held"] > 0
    assert "saved or merged" not in found["report"]


def test_in_low_memory_mode_weights_are_patched_at_every_use_and_saved_as_ever(numbers, pocket_target):
    found = numbers["lowvram"]
    assert found["patched_at_use"] == len(pocket_target.modules("cross_kv"))
    assert found["error"] < 2**-10
    assert found["effect"] > 0.01
    assert found["saved_is_patched"]
    assert found["base_after"]
