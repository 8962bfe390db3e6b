"""Planted faults: each must be the first cause. And a healthy artifact has none."""

from __future__ import annotations

import json
import zipfile

import pytest
import torch
from safetensors.torch import load_file, save_file

from erase_plugins.artifacts.header import read_header
from erase_plugins.diagnose.findings import ORDER
from erase_plugins.diagnose.run import diagnose
from erase_plugins.hints import in_terminal, stored


def rewrite(path, change, **metadata):
    """Changes tensors and metadata of a file; a metadata value of None drops the entry."""
    meta = {**read_header(path).metadata, **metadata}
    tensors = change(load_file(path))
    save_file(
        {name: tensor.contiguous() for name, tensor in tensors.items()}, path,
        {key: value for key, value in meta.items() if value is not None},
    )  # fmt: skip


def foreign(path, **metadata):
    """Takes our own entries out of a file's header."""
    ours = {key: None for key in read_header(path).metadata if key.startswith("erase_plugins")}
    rewrite(path, lambda tensors: tensors, **{**ours, **metadata})


def cause(place, target, **options):
    found = diagnose(place, target, options.pop("prompt", "a pizza"), pictures=0, **options)
    assert found.cause is not None, found.to_dict()
    assert found.cause.verdict == "fault"
    assert found.cause.fix
    return found.cause.check


def test_healthy_artifact_has_no_fault(tiny_folder, tiny_target):
    found = diagnose(tiny_folder, tiny_target, "a pizza", pictures=0)
    assert [item.check for item in found.findings if item.verdict != "ok"] == []
    assert [item.check for item in found.findings] == [name for name in ORDER if name != "pictures"]


@pytest.mark.parametrize("strength", [0.0, -1.0])
def test_strength(tiny_folder, tiny_target, strength):
    assert cause(tiny_folder, tiny_target, strength=strength) == "strength"


def test_what_fixes_it_is_said_in_the_words_of_who_asks(tiny_folder, tiny_target):
    found = diagnose(tiny_folder, tiny_target, "a pizza", strength=0.0, pictures=0)
    assert (found.cause.fix, in_terminal(found.cause.fix)) == ("use strength=1", "use --strength 1")
    assert found.to_dict(stored)["cause"]["fix"] == "use 'strength' 1"


def test_weak_strength_is_a_warning(tiny_folder, tiny_target):
    found = diagnose(tiny_folder, tiny_target, "a pizza", strength=0.5, pictures=0)
    assert (found.cause.check, found.cause.verdict) == ("strength", "warning")


def test_wrong_base(tiny_folder):
    from erase_plugins.testing.tiny import tiny_sd1, tiny_sdxl
    from erase_plugins.workflow.models import target_of

    assert cause(tiny_folder, target_of(tiny_sd1(seed=1), "other")) == "base"
    assert cause(tiny_folder, target_of(tiny_sdxl(), "xl")) == "base"


def test_other_text_encoder_in_the_model(tiny_folder):
    from erase_plugins.testing.tiny import tiny_sd1
    from erase_plugins.workflow.models import target_of

    pipe = tiny_sd1()
    pipe.text_encoder = tiny_sd1(seed=5).text_encoder
    assert cause(tiny_folder, target_of(pipe, "mixed")) == "text_encoder"


def text_lora(target, component="text_encoder"):
    from erase_plugins.artifacts.edit import Edit, LowRank

    refs = [ref for ref in target.modules("text_attn") if ref.component == component]
    deltas = {ref.weight: LowRank(torch.ones(1, ref.shape[1]), torch.ones(ref.shape[0], 1)) for ref in refs}
    return Edit(target.family.id, {component: deltas})


def test_adapter_for_the_other_text_encoder(tiny_target, tmp_path):
    from erase_plugins.manager import get_manager

    path = tmp_path / "te2.safetensors"
    get_manager().layout("kohya").write(text_lora(tiny_target), tiny_target.family, {}, path)
    tensors = {name.replace("lora_te_", "lora_te2_"): tensor for name, tensor in load_file(path).items()}
    save_file(tensors, path, {"ss_base_model_version": "sd_v1"})
    assert cause(path, tiny_target) in ("text_encoder", "alpha")
    save_file(tensors, path, {"ss_base_model_version": "sd_v1", "ss_network_alpha": "1", "ss_network_dim": "1"})
    found = diagnose(path, tiny_target, "a pizza", pictures=0)
    assert "text_encoder_2, which the model lacks" in next(
        item.text for item in found.findings if item.check == "text_encoder" and item.verdict == "fault"
    )


@pytest.mark.parametrize("whole_folder", [False, True])
def test_half_of_the_keys_missing(tiny_copy, kohya, tiny_target, whole_folder):
    def half(tensors):
        stems = sorted({name.split(".")[0] for name in tensors})
        return {name: tensor for name, tensor in tensors.items() if name.split(".")[0] in stems[::2]}

    rewrite(kohya, half)
    assert cause(tiny_copy if whole_folder else kohya, tiny_target) == "keys"


def test_half_of_the_keys_missing_in_a_foreign_file(kohya, tiny_target):
    def half(tensors):
        stems = sorted({name.split(".")[0] for name in tensors})
        return {name: tensor for name, tensor in tensors.items() if name.split(".")[0] in stems[:3]}

    rewrite(kohya, half)
    foreign(kohya)
    assert cause(kohya, tiny_target) == "keys"


def test_factors_without_their_other_half(kohya, tiny_target):
    rewrite(kohya, lambda tensors: {name: t for name, t in tensors.items() if "lora_up" not in name or "to_k" in name})
    assert cause(kohya, tiny_target) == "keys"


def test_alpha_lost(kohya, tiny_target):
    foreign(kohya, ss_network_alpha="1")
    rewrite(kohya, lambda tensors: {name: item for name, item in tensors.items() if not name.endswith(".alpha")})
    assert cause(kohya, tiny_target) == "alpha"


def test_alpha_changed(kohya, tiny_target):
    stems = {name.split(".")[0] for name in load_file(kohya)}
    rewrite(kohya, lambda tensors: {**tensors, **{f"{stem}.alpha": torch.tensor(1.0) for stem in stems}})
    assert cause(kohya, tiny_target) == "alpha"


def test_alpha_lost_in_diffusers_file(tiny_copy, tiny_target):
    rewrite(tiny_copy / "pytorch_lora_weights.safetensors", lambda tensors: tensors, lora_adapter_metadata=None)
    assert cause(tiny_copy, tiny_target) == "alpha"


def test_clip_skip(tiny_folder, tiny_target):
    assert cause(tiny_folder, tiny_target, clip_skip=2) == "clip_skip"


@pytest.mark.parametrize("schema", [0, None, 99])
def test_old_schema(tiny_copy, tiny_target, schema):
    path = tiny_copy / "erase.json"
    data = json.loads(path.read_text())
    data["schema"] = schema
    if schema is None:
        del data["schema"]
    path.write_text(json.dumps(data))
    assert cause(tiny_copy, tiny_target) == "schema"


@pytest.mark.parametrize("name", ["edit.safetensors", "kohya"])
def test_nan(tiny_copy, kohya, tiny_target, name):
    path = kohya if name == "kohya" else tiny_copy / name

    def poison(tensors):
        first = next(key for key, tensor in sorted(tensors.items()) if tensor.ndim == 2)
        tensors[first][0, 0] = float("nan")
        return tensors

    rewrite(path, poison)
    assert cause(tiny_copy, tiny_target) == "finite"
    assert cause(path, tiny_target) == "finite"


@pytest.mark.parametrize("dtype", ["float16", "float64", "int8", "float8_e4m3fn"])
def test_wrong_dtype(kohya, tiny_target, dtype):
    rewrite(kohya, lambda tensors: {name: tensor.to(getattr(torch, dtype)) for name, tensor in tensors.items()})
    assert cause(kohya, tiny_target) == "dtype"


def test_converted_to_half_precision_by_us_is_no_fault(tiny_folder, tiny_target, tmp_path):
    from erase_plugins.workflow.convert import convert

    convert(tiny_folder, "kohya", out=tmp_path / "a.safetensors", base=tiny_target, dtype="float16")
    found = diagnose(tmp_path / "a.safetensors", tiny_target, "a pizza", pictures=0)
    assert next(item.verdict for item in found.findings if item.check == "dtype") == "ok"


def test_second_lora_that_works_against_it(tiny_folder, tiny_target, tmp_path):
    from erase_plugins.workflow.artifacts import load_artifact

    artifact = load_artifact(next(tiny_folder.glob("*kohya*")))
    from erase_plugins.manager import get_manager

    path = tmp_path / "style.safetensors"
    get_manager().layout("kohya").write(artifact.edit.scaled(-1.0), tiny_target.family, {}, path)
    assert cause(tiny_folder, tiny_target, loras=[str(path)]) == "other_lora"
    found = diagnose(tiny_folder, tiny_target, "a pizza", loras=[str(path)], pictures=0)
    assert "cosine -1.00" in found.cause.text


def test_damaged_file(tiny_copy, tiny_target):
    rewrite(tiny_copy / "pytorch_lora_weights.safetensors", lambda t: {name: x * 1.5 for name, x in t.items()})
    assert cause(tiny_copy, tiny_target) == "files"


def test_quantised_model(tiny_folder):
    from erase_plugins.testing.tiny import tiny_sd1
    from erase_plugins.workflow.models import target_of

    pipe = tiny_sd1()
    target = target_of(pipe, "tiny")
    touched = pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_k.weight
    touched.data = touched.data.to(torch.float8_e4m3fn)
    checks = {
        item.check for item in diagnose(tiny_folder, target, "a pizza", pictures=0).findings if item.verdict == "fault"
    }
    assert "dtype" in checks


def test_prompt_that_says_something_else_is_a_warning(tiny_folder, tiny_target):
    found = diagnose(tiny_folder, tiny_target, "a slice of pie", pictures=0)
    assert (found.cause.check, found.cause.verdict) == ("prompt", "warning")


def test_the_model_is_left_as_it_was(tiny_folder, tiny_target):
    before = {name: tensor.clone() for name, tensor in tiny_target.pipe.unet.state_dict().items()}
    diagnose(tiny_folder, tiny_target, "a pizza", pictures=2)
    after = tiny_target.pipe.unet.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_bundle_holds_no_weights_paths_or_tokens(tiny_folder, tiny_target, tmp_path):
    from erase_plugins.diagnose.bundle import write_bundle
    from erase_plugins.plain_text import scrub

    found = diagnose(tiny_folder, tiny_target, "a pizza in /home/me/x by hf_abcdefgh12345", pictures=1)
    for images, names in ((False, 3), (True, 5)):
        path = tmp_path / f"{images}.zip"
        assert len(write_bundle(found, path, scrub, images)) == names
        with zipfile.ZipFile(path) as bundle:
            assert len(bundle.namelist()) == names
            text = "".join(bundle.read(name).decode() for name in bundle.namelist() if name.endswith(".json"))
        assert "/home/me" not in text
        assert "hf_abc" not in text
        assert str(tiny_folder.parent) not in text
        assert "sample" not in text
