"""On a base that is stored in fp8 or bf16 an edit is as exact as on fp32, and the base stays as it was."""

from __future__ import annotations

import pytest

from tests.comfy_nodes.conftest import context_edit
from tests.layouts.making import artifact_of, dense_edit, random_edit

pytestmark = [pytest.mark.comfy, pytest.mark.slow]


@pytest.fixture(scope="module")
def numbers(in_comfy, pocket_target, tmp_path_factory):
    """What storage.py measured."""
    work = tmp_path_factory.mktemp("storage")
    edits = {
        "lowrank": random_edit(pocket_target, ("denoiser",)),
        "dense": dense_edit(pocket_target),
        "contextmap": context_edit(pocket_target.info.width),
    }
    for name, edit in edits.items():
        artifact_of(pocket_target, edit, name).save(work / "models" / "erase_plugins" / name, ("patch",))
    return in_comfy("storage.py", str(work))


@pytest.mark.parametrize("kind", ["lowrank", "dense", "contextmap"])
@pytest.mark.parametrize(("stored", "dtype"), [
    ("fp8_e4m3", "torch.float8_e4m3fn"), ("fp8_e5m2", "torch.float8_e5m2"), ("bf16", "torch.bfloat16"),
])  # fmt: skip
def test_an_edit_is_exact_on_any_storage_type(numbers, stored, dtype, kind):
    assert numbers[stored]["dtype"] == dtype
    found = numbers[stored][kind]
    assert found["error"] < 5e-6
    assert found["effect"] > 0.01
    assert found["base_after"]
    assert ("exact on this storage type" in found["report"]) == (kind != "contextmap")
