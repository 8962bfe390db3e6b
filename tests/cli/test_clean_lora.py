"""``clean-lora`` from the command line; the work itself is tested with `workflow.cleaning`."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file


@pytest.fixture
def ref(pocket_target):
    return next(ref for ref in pocket_target.modules("cross_kv") if ref.path.endswith("attn2.to_k"))


@pytest.fixture
def lora(tmp_path, ref):
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


def altered(file, change):
    """A copy of a LoRA with other tensors."""
    place = file.with_name("other.safetensors")
    save_file({name: change(name, tensor).contiguous() for name, tensor in load_file(file).items()}, place)
    return place


def _strong(name, tensor):
    return torch.tensor(1e38) if name.endswith("alpha") else tensor


def _broken(name, tensor):
    return tensor.fill_(float("nan")) if "lora_up" in name else tensor


@pytest.mark.parametrize(("change", "told", "not_told"), [
    (_strong, "with 'other.safetensors' predictions are no numbers any more", ""),
    (_broken, "damaged values in 'other.safetensors': unet ", "learning rate"),
    (lambda name, tensor: tensor.to(torch.int8), "'other.safetensors' does not fit family sd1: ", "registered"),
])  # fmt: skip
def test_damaged_files_are_refused_and_named(erase, loaded, lora, tmp_path, change, told, not_told):
    out = tmp_path / "o.safetensors"
    ran = erase("clean-lora", altered(lora, change), "--erase", "zorbax", "--base", "pocket", "--images", "0",
                "--out", out)  # fmt: skip
    assert ran.code == 2 and told in ran.err, ran.err
    assert not not_told or not_told not in ran.err
    assert not out.exists() and len(list(tmp_path.iterdir())) == 2


def test_a_lora_of_another_family_is_named(erase, loaded, tmp_path):
    layer = "transformer.single_transformer_blocks.0.attn.to_q"
    save_file(
        {f"{layer}.lora_A.weight": torch.ones(2, 3072), f"{layer}.lora_B.weight": torch.ones(3072, 2)},
        tmp_path / "flux.safetensors",
    )
    ran = erase("clean-lora", tmp_path / "flux.safetensors", "--erase", "zorbax", "--base", "pocket",
                "--out", tmp_path / "o.safetensors")  # fmt: skip
    assert ran.code == 2
    assert "does not fit family sd1" in ran.err and "it looks like a file for family flux" in ran.err


def test_a_lora_that_does_nothing_is_told(erase, loaded, lora, tmp_path):
    still = altered(lora, lambda name, tensor: tensor.zero_() if name.endswith("alpha") else tensor)
    ran = erase("clean-lora", still, "--erase", "zorbax", "--base", "pocket", "--images", "0",
                "--out", tmp_path / "o.safetensors", "--json")  # fmt: skip
    assert ran.data["before"]["effect"] == 0
    assert "the LoRA changes no prediction here, so there was nothing to take out" in ran.data["notes"]


def test_what_is_there_stays(erase, lora):
    before = lora.read_bytes()
    ran = erase("clean-lora", lora, "--erase", "zorbax", "--base", "pocket", "--out", lora)
    assert ran.code != 0
    assert lora.read_bytes() == before


@pytest.fixture
def folder(lora, tmp_path):
    """Two LoRAs and something else that is called one."""
    place = tmp_path / "theirs"
    place.mkdir()
    for name in ("a", "c"):
        (place / f"{name}.safetensors").write_bytes(lora.read_bytes())
    (place / "b.safetensors").write_bytes(b"no tensors")
    (place / "notes.txt").write_text("not looked at")
    return place


def test_a_folder_is_cleaned_file_by_file_and_goes_on(erase, loaded, folder, lora, tmp_path):
    words = ("clean-lora", folder, "--erase", "zorbax", "--base", "pocket", "--images", "0", "--out", tmp_path / "out")
    ran = erase(*words, "--json")
    assert ran.code == 1
    assert [(row["source"], row["status"]) for row in ran.data["items"]] == [
        ("a.safetensors", "cleaned"), ("b.safetensors", "failed"), ("c.safetensors", "cleaned"),
    ]  # fmt: skip
    assert "b.safetensors" in ran.data["items"][1]["problem"]
    assert ran.err.strip().splitlines()[-1].startswith("error: 1 of 3 LoRAs were not cleaned, first: ")
    alone = erase("clean-lora", lora, *words[2:-1], tmp_path / "alone.safetensors")
    assert alone.code == 0
    first, second = load_file(tmp_path / "out" / "a.safetensors"), load_file(tmp_path / "alone.safetensors")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    (folder / "b.safetensors").write_bytes(lora.read_bytes())
    before = (tmp_path / "out" / "a.safetensors").stat().st_mtime_ns
    again = erase(*words, "--json")
    assert again.code == 0
    assert [row["status"] for row in again.data["items"]] == ["there already", "cleaned", "there already"]
    assert (tmp_path / "out" / "a.safetensors").stat().st_mtime_ns == before
    assert sorted(item.suffix for item in (tmp_path / "out").iterdir()) == [".safetensors"] * 3


def test_peft_adapters_and_other_folders_of_one_lora_are_taken_too(erase, loaded, lora, ref, tmp_path):
    place, (down, up) = tmp_path / "theirs", (part for part in load_file(lora).values() if part.ndim)
    for name, file, stem in (("p", "adapter_model", "base_model.model"), ("q", "pytorch_lora_weights", "unet")):
        (place / name).mkdir(parents=True)
        tensors = {f"{stem}.{ref.path}.lora_A.weight": down, f"{stem}.{ref.path}.lora_B.weight": up}
        save_file(tensors, place / name / f"{file}.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["to_k"]}
    for name in ("p", "pickled"):
        (place / name).mkdir(exist_ok=True)
        (place / name / "adapter_config.json").write_text(json.dumps(config))
    (place / "pictures").mkdir()
    out, words = tmp_path / "out", ("--erase", "zorbax", "--base", "pocket", "--images", "0")
    ran = erase("clean-lora", place, *words, "--out", out, "--json")
    assert [(row["source"], row["status"]) for row in ran.data["items"]] == [
        ("p", "cleaned"), ("pickled", "failed"), ("q", "cleaned"),
    ]  # fmt: skip
    assert ran.data["items"][1]["problem"].startswith("no LoRA file at 'pickled'")
    assert (out / "p" / "adapter_config.json").is_file() and not (out / "pickled").exists()
    assert erase("clean-lora", lora, *words, "--out", tmp_path / "alone.safetensors").code == 0
    alone = {name.rpartition("_")[2]: part for name, part in load_file(tmp_path / "alone.safetensors").items()}
    for file in (out / "p" / "adapter_model.safetensors", out / "q" / "pytorch_lora_weights.safetensors"):
        found = {name.rpartition("lora_")[2]: part for name, part in load_file(file).items()}
        assert torch.equal(found["A.weight"], alone["down.weight"]) and torch.equal(found["B.weight"], up)
    again = erase("clean-lora", place, *words, "--out", out, "--json").data["items"]
    assert [row["status"] for row in again] == ["there already", "failed", "there already"]


def test_the_base_of_a_folder_is_measured_once(erase, loaded, folder, tmp_path, monkeypatch):
    from erase_plugins.evaluation import lora_effect

    real, asked = lora_effect.predictions, []
    monkeypatch.setattr(lora_effect, "predictions", lambda *given: asked.append(given[1]) or real(*given))
    words = ("clean-lora", folder, "--erase", "zorbax", "--base", "pocket", "--images", "0")
    rows = erase(*words, "--out", tmp_path / "out", "--json").data["items"]
    assert len(asked) == 2 * (1 + 2 * 2), "two sets of prompts: on the base, and before and after each of two files"
    assert rows[0]["before"] == rows[2]["before"] != {} and rows[0]["after"] == rows[2]["after"]


def test_a_dry_run_over_a_folder_writes_nothing(erase, folder, tmp_path):
    ran = erase("clean-lora", folder, "--erase", "zorbax", "--base", "pocket", "--out", tmp_path / "out", "--dry-run")
    assert ran.code == 1
    assert "2 cleaned, 0 there already, 1 failed (dry run)" in ran.out
    assert not (tmp_path / "out").exists()


def test_an_error_that_nobody_thought_of_holds_up_no_other_file(erase, folder, tmp_path, monkeypatch):
    from erase_plugins.workflow import cleaning

    real = cleaning.clean_lora
    monkeypatch.setattr(cleaning, "clean_lora", lambda file, *words, **more: (
        real(file, *words, **more) if file.stem == "c" else {}["alpha"]
    ))  # fmt: skip
    ran = erase(
        "clean-lora", folder, "--erase", "zorbax", "--base", "pocket", "--out", tmp_path / "o", "--dry-run", "--json"
    )
    assert ran.code == 1
    assert [row["status"] for row in ran.data["items"]] == ["failed", "failed", "cleaned"]
    assert ran.data["items"][0]["problem"].startswith("unexpected KeyError: 'alpha'")


@pytest.mark.parametrize("out", ["theirs", "one.safetensors"])
def test_a_folder_of_loras_needs_another_folder(erase, folder, tmp_path, out):
    ran = erase("clean-lora", folder, "--erase", "zorbax", "--base", "pocket", "--out", tmp_path / out)
    assert ran.code == 2
    assert "choose another --out" in ran.err
    assert sorted(item.name for item in folder.iterdir()) == ["a.safetensors", "b.safetensors", "c.safetensors",
                                                              "notes.txt"]  # fmt: skip
