"""``clean-lora`` from the command line; the work itself is tested with `workflow.cleaning`."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file


@pytest.fixture
def lora(tmp_path, pocket_target):
    ref = next(ref for ref in pocket_target.modules("cross_kv") if ref.path.endswith("attn2.to_k"))
    generator = torch.Generator().manual_seed(0)
    stem = "lora_unet_" + ref.path.replace(".", "_")
    down, up = torch.randn(2, ref.shape[1], generator=generator), torch.randn(ref.shape[0], 2, generator=generator)
    file = tmp_path / "somebody.safetensors"
    save_file(
        {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up, f"{stem}.alpha": torch.tensor(2.0)}, file
    )
    return file


def test_a_dry_run_says_what_would_happen(erase, loaded, lora, tmp_path):
    ran = erase("clean-lora", lora, "--erase", "zorbax", "--base", "pocket", "--out", tmp_path / "o.safetensors",
                "--dry-run", "--json")  # fmt: skip
    assert ran.code == 0, ran.err
    assert ran.data["dry_run"] is True
    assert ran.data["cleaned"] == {"unet": 1}
    assert ran.data["path"] is None
    assert not (tmp_path / "o.safetensors").exists()


def test_it_writes_and_measures(erase, loaded, lora, tmp_path):
    out = tmp_path / "o.safetensors"
    ran = erase("clean-lora", lora, "--erase", "zorbax", "--base", "pocket", "--out", out)
    assert ran.code == 0, ran.err
    assert out.is_file()
    assert "change of the prediction where the concept is named" in ran.out
    assert "no judge knows the concept" in ran.out


def test_no_judge_is_missed_where_no_picture_was_asked_for(erase, loaded, lora, tmp_path):
    ran = erase("clean-lora", lora, "--erase", "zorbax", "--base", "pocket", "--images", "0",
                "--out", tmp_path / "o.safetensors")  # fmt: skip
    assert ran.code == 0, ran.err
    assert "elsewhere:" in ran.out
    assert "judge" not in ran.out


@pytest.mark.parametrize(("words", "told"), [
    ((), "add --erase TEXT"),
    (("--erase", "zorbax", "--out", "plain"), "must end in .safetensors"),
])  # fmt: skip
def test_refusals_are_one_line(erase, lora, tmp_path, words, told):
    given = words if "--out" in words else (*words, "--out", tmp_path / "o.safetensors")
    ran = erase("clean-lora", lora, "--base", "pocket", *given)
    assert ran.code == 2
    assert told in ran.err
    assert len(ran.err.strip().splitlines()) == 1


def test_what_is_there_stays(erase, lora):
    before = lora.read_bytes()
    ran = erase("clean-lora", lora, "--erase", "zorbax", "--base", "pocket", "--out", lora)
    assert ran.code != 0
    assert lora.read_bytes() == before
