"""Conversions: exact where they can be, refused or recorded where not."""

from __future__ import annotations

import json

import pytest
import torch

import erase_plugins as ep
from erase_plugins.artifacts.difference import difference
from erase_plugins.artifacts.edit import CONTEXT, ContextMap, Dense, Edit, LowRank
from erase_plugins.artifacts.header import read_header
from erase_plugins.artifacts.lowrank import uniform_rank
from erase_plugins.artifacts.store import lower_for
from erase_plugins.artifacts.tensors import write_tensors
from erase_plugins.artifacts.weights import base_tensors
from erase_plugins.errors import ArtifactError, BaseMismatch, NotFiniteError, RequestError, Unsupported
from erase_plugins.workflow.convert import convert
from tests.layouts.making import artifact_of, dense_edit, random_edit


def stored(path) -> Edit:
    return ep.load_artifact(path).edit


def test_folder_to_single_file_and_back(pocket_target, tmp_path):
    edit = random_edit(pocket_target, ("cross_kv", "text"))
    artifact_of(pocket_target, edit).save(tmp_path / "art", ("patch",))
    made = convert(tmp_path / "art", "kohya", out=tmp_path / "lora.safetensors")
    assert made.path == tmp_path / "lora.safetensors"
    assert made.manifest.history[-1]["op"] == "convert"
    assert not difference(stored(tmp_path / "lora.safetensors"), uniform_rank(edit))
    convert(tmp_path / "lora.safetensors", "patch", out=tmp_path / "again")
    again = ep.load_artifact(tmp_path / "again")
    assert not difference(again.edit, uniform_rank(edit))
    assert again.manifest.erased == ("pizza",)
    convert(tmp_path / "lora.safetensors", "peft", out=tmp_path / "peft")
    assert len(list((tmp_path / "peft").rglob("adapter_config.json"))) == 2


def test_context_map_needs_the_base(pocket_target, tmp_path):
    width = pocket_target.info.width
    edit = Edit("sd1", {"unet": {CONTEXT: ContextMap(torch.randn(2, width), torch.randn(width, 2))}})
    artifact = artifact_of(pocket_target, edit)
    with pytest.raises(Unsupported, match="target="):
        convert(artifact, "kohya", out=tmp_path / "x.safetensors")
    assert not list(tmp_path.iterdir())
    convert(artifact, "kohya", out=tmp_path / "x.safetensors", base=pocket_target)
    expected = lower_for(edit, pocket_target)
    assert not difference(stored(tmp_path / "x.safetensors"), expected)
    assert len(expected) == len(pocket_target.modules("cross_kv"))


def test_dense_is_compressed_and_the_error_recorded(pocket_target, tmp_path):
    edit = dense_edit(pocket_target, "cross_kv", bias=False)
    artifact = artifact_of(pocket_target, edit)
    made = convert(artifact, "kohya", out=tmp_path / "x.safetensors", rank=8)
    errors = made.manifest.history[-1]["errors"]
    assert len(errors) == len(edit)
    assert made.edit.rank == 8
    back = stored(tmp_path / "x.safetensors")
    for component, key, delta in edit.items():
        left = (back.deltas[component][key].dense() - delta.dW).norm() / delta.dW.norm()
        assert abs(float(left) - errors[f"{component} {key}"]) < 2e-3
        assert left > 0.5  # random matrices do not compress: the number must say so
    assert any("relative error per weight at most" in note for note in made.manifest.notes)
    exact = convert(artifact, "kohya", out=tmp_path / "y.safetensors")
    assert max(exact.manifest.history[-1]["errors"].values()) < 1e-6
    energy = convert(artifact, "kohya", out=tmp_path / "z.safetensors", energy=0.9)
    assert max(energy.manifest.history[-1]["errors"].values()) <= 0.1**0.5 + 1e-3


def test_biases_are_dropped_on_request_only(pocket_target, tmp_path):
    ref = next(ref for ref in pocket_target.modules("cross_attn") if ref.bias)
    low = LowRank(torch.ones(1, ref.shape[1]), torch.ones(ref.shape[0], 1))
    deltas = {"unet": {ref.weight: low, f"{ref.path}.bias": Dense(torch.ones(ref.shape[0]))}}
    artifact = artifact_of(pocket_target, Edit("sd1", deltas))
    with pytest.raises(Unsupported, match="bias changes"):
        convert(artifact, "diffusers", out=tmp_path / "x.safetensors")
    made = convert(artifact, "diffusers", out=tmp_path / "x.safetensors", drop_bias=True)
    assert list(made.edit.deltas["unet"]) == [ref.weight]
    assert any("1 bias changes were left out" in note for note in made.manifest.notes)
    only = artifact_of(pocket_target, Edit("sd1", {"unet": {f"{ref.path}.bias": Dense(torch.ones(ref.shape[0]))}}))
    with pytest.raises(Unsupported, match="nothing but biases"):
        convert(only, "diffusers", out=tmp_path / "y.safetensors", drop_bias=True)


def test_absolute_weights_become_an_exact_low_rank_change(pocket_target, tmp_path):
    """What ESD and UCE scripts save: whole weights, here of a rank-2 edit, a dense one, and an unchanged one."""
    refs = pocket_target.modules("cross_attn")
    base = base_tensors(pocket_target, "unet")
    generator = torch.Generator().manual_seed(1)
    first, second, third = refs[0], refs[1], refs[2]
    change = torch.randn(first.shape[0], 2, generator=generator) @ torch.randn(2, first.shape[1], generator=generator)
    noise = 0.1 * torch.randn(second.shape, generator=generator)
    weights = {
        f"unet.{first.weight}": base[first.weight].float() + change,
        f"unet.{second.weight}": base[second.weight].float() + noise,
        f"unet.{third.weight}": base[third.weight].float(),
    }
    write_tensors(tmp_path / "esd.safetensors", weights, {})
    with pytest.raises(Unsupported, match="target="):
        convert(tmp_path / "esd.safetensors", "patch", out=tmp_path / "x")
    made = convert(tmp_path / "esd.safetensors", "patch", out=tmp_path / "x", base=pocket_target)
    deltas = made.edit.deltas["unet"]
    assert set(deltas) == {first.weight, second.weight}
    assert isinstance(deltas[first.weight], LowRank)
    assert deltas[first.weight].rank == 2
    assert (deltas[first.weight].dense() - change).norm() / change.norm() < 1e-5
    assert isinstance(deltas[second.weight], Dense)
    assert torch.allclose(deltas[second.weight].dW, noise, atol=1e-6)
    errors = made.manifest.history[-1]["errors"]
    assert list(errors) == [f"unet {first.weight}"]
    assert errors[f"unet {first.weight}"] < 1e-5
    assert made.manifest.base["fingerprint"]
    with ep.apply(pocket_target.pipe, tmp_path / "x") as applied:
        assert applied.patched == 2
        assert torch.allclose(pocket_target.weight(first), weights[f"unet.{first.weight}"], atol=1e-5)


def test_half_precision_file_shows_no_change_that_is_only_rounding(pocket_target, tmp_path):
    refs = pocket_target.modules("cross_kv")
    base = base_tensors(pocket_target, "unet")
    weights = {ref.weight: base[ref.weight].to(torch.bfloat16) for ref in refs}
    weights[refs[0].weight] = (base[refs[0].weight].float() * 1.5).to(torch.bfloat16)
    write_tensors(tmp_path / "w.safetensors", weights, {})
    made = convert(tmp_path / "w.safetensors", "patch", out=tmp_path / "x", base=pocket_target)
    assert list(made.edit.deltas["unet"]) == [refs[0].weight]


def test_full_text_encoder_with_norms_and_embeddings(pocket_target, tmp_path):
    """What AdvUnlearn saves: everything, of which a norm, three embedding rows and a projection differ."""
    base = {name: value.float().clone() for name, value in base_tensors(pocket_target, "text_encoder").items()}
    base["encoder.layers.0.layer_norm1.weight"] += 0.5
    base["embeddings.token_embedding.weight"][5:8] += 1.0
    base["encoder.layers.1.mlp.fc1.weight"] += 0.25
    weights = {f"text_model.{name}": value for name, value in base.items()}
    write_tensors(tmp_path / "te.safetensors", weights, {})
    made = convert(tmp_path / "te.safetensors", "patch", out=tmp_path / "x", base=pocket_target)
    kinds = {key: delta.kind for _, key, delta in made.edit.items()}
    assert kinds == {
        "encoder.layers.0.layer_norm1.weight": "dense", "embeddings.token_embedding.weight": "rows",
        "encoder.layers.1.mlp.fc1.weight": "lowrank",
    }  # fmt: skip
    assert made.edit.deltas["text_encoder"]["embeddings.token_embedding.weight"].index.tolist() == [5, 6, 7]
    with ep.apply(pocket_target.pipe, tmp_path / "x"):
        now = base_tensors(pocket_target, "text_encoder")
        live = {n.removeprefix("text_model."): p for n, p in pocket_target.pipe.text_encoder.named_parameters()}
        for name, value in base.items():
            assert torch.allclose(live[name].float(), value, atol=1e-5), name
        assert not torch.equal(
            now["embeddings.token_embedding.weight"].float(), base["embeddings.token_embedding.weight"]
        )


def test_concept_ablation_delta_is_added_as_it_is(pocket_target, tmp_path):
    ref = pocket_target.modules("cross_kv")[0]
    change = torch.randn(ref.shape[0], 1) @ torch.randn(1, ref.shape[1])
    write_tensors(tmp_path / "d.safetensors", {f"unet.{ref.weight}": change}, {"kind": "delta"})
    made = convert(tmp_path / "d.safetensors", "kohya", out=tmp_path / "x.safetensors", base=pocket_target)
    assert torch.allclose(made.edit.deltas["unet"][ref.weight].dense(), change, atol=1e-5)


def test_wrong_base_and_unchanged_weights_are_refused(pocket_target, tmp_path):
    ref = pocket_target.modules("cross_kv")[0]
    write_tensors(tmp_path / "a.safetensors", {ref.weight: torch.ones(3, 768)}, {})
    with pytest.raises(BaseMismatch, match="has shape"):
        convert(tmp_path / "a.safetensors", "patch", out=tmp_path / "x", base=pocket_target)
    write_tensors(tmp_path / "b.safetensors", {ref.weight: pocket_target.weight(ref).float()}, {})
    with pytest.raises(ArtifactError, match="nothing to convert"):
        convert(tmp_path / "b.safetensors", "patch", out=tmp_path / "x", base=pocket_target)
    write_tensors(tmp_path / "c.safetensors", {"model.diffusion_model.x.weight": torch.ones(1)}, {})
    with pytest.raises(Unsupported, match="full checkpoint"):
        convert(tmp_path / "c.safetensors", "patch", out=tmp_path / "x")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(("dtype", "name"), [("float16", "F16"), ("bfloat16", "BF16"), ("float32", "F32")])
@pytest.mark.parametrize("layout", ["kohya", "diffusers", "diff", "patch"])
def test_dtype_of_the_file(dtype, name, layout, pocket_target, tmp_path):
    artifact = artifact_of(pocket_target, random_edit(pocket_target, ("cross_kv",), mixed=False))
    convert(artifact, layout, out=tmp_path / "x.safetensors", dtype=dtype)
    header = read_header(tmp_path / "x.safetensors")
    # alpha stays exact: a rank above 256 has no bfloat16, and another alpha would be another strength
    factors = {key: entry.dtype for key, entry in header.tensors.items() if not key.endswith(".alpha")}
    assert set(factors.values()) == {name}
    limit = {"float16": 1e-3, "bfloat16": 1e-2, "float32": 0}[dtype]
    for component, key, delta in stored(tmp_path / "x.safetensors").items():
        wanted = artifact.edit.deltas[component][key].dense()
        assert (delta.dense() - wanted).norm() <= limit * wanted.norm()


def test_statistics_that_go_are_told(pocket_target, tmp_path):
    made = ep.erase(pocket_target, "pizza")
    assert made.edit.statistics
    whole = convert(made, "patch", out=tmp_path / "whole", base=pocket_target)
    small = convert(made, "patch", out=tmp_path / "small", base=pocket_target, dtype="float16")
    told = [any("the statistics went" in note for note in item.manifest.notes) for item in (whole, small)]
    assert (told, bool(whole.edit.statistics), bool(small.edit.statistics)) == ([False, True], True, False)


def test_too_large_for_half_precision(pocket_target, tmp_path):
    ref = pocket_target.modules("cross_kv")[0]
    edit = Edit(
        "sd1", {"unet": {ref.weight: LowRank(torch.full((1, ref.shape[1]), 1e12), torch.ones(ref.shape[0], 1))}}
    )
    with pytest.raises(NotFiniteError, match="use bfloat16"):
        convert(artifact_of(pocket_target, edit), "kohya", out=tmp_path / "x.safetensors", dtype="float16")


@pytest.mark.parametrize("size", [1e6, 1e-9])
def test_factors_of_unlike_size_fit_into_half_precision(size, pocket_target, tmp_path):
    ref = pocket_target.modules("cross_kv")[0]
    torch.manual_seed(0)
    change = LowRank(torch.randn(2, ref.shape[1]) / size, size * torch.randn(ref.shape[0], 2))
    artifact = artifact_of(pocket_target, Edit("sd1", {"unet": {ref.weight: change}}))
    made = convert(artifact, "kohya", out=tmp_path / "x.safetensors", dtype="float16")
    ((_, _, found),) = stored(tmp_path / "x.safetensors").items()
    error = float((found.dense() - change.dense()).norm() / change.dense().norm())
    assert error < 1e-3
    (told,) = made.manifest.history[-1]["errors"].values()
    assert told == pytest.approx(error, rel=0.01)
    assert "relative error per weight at most" in made.manifest.notes[-1]


def test_what_vanishes_in_half_precision_is_refused(pocket_target, tmp_path):
    ref = pocket_target.modules("cross_kv")[0]
    edit = Edit("sd1", {"unet": {ref.weight: Dense(torch.full(ref.shape, 1e-9))}})
    with pytest.raises(Unsupported, match=r"too coarse .* 100% of it would be lost"):
        convert(artifact_of(pocket_target, edit), "diff", out=tmp_path / "x.safetensors", dtype="float16")
    assert not list(tmp_path.iterdir())


def test_sidecars(pocket_target, tmp_path):
    from PIL import Image

    artifact = artifact_of(pocket_target, random_edit(pocket_target, ("cross_kv",)))
    pictures = [Image.new("RGB", (64, 64), "red"), Image.new("RGB", (64, 64), "blue")]
    convert(artifact, "kohya", out=tmp_path / "e.safetensors", sidecars=True, pictures=pictures)
    with Image.open(tmp_path / "e.preview.png") as shown:
        assert shown.size == (512, 512)
        assert shown.getpixel((128, 256)) == (255, 0, 0)
        assert shown.getpixel((384, 256)) == (0, 0, 255)
    text = json.loads((tmp_path / "e.json").read_text(encoding="utf-8"))
    assert (text["activation text"], text["sd version"], text["preferred weight"]) == ("", "SD1", 1.0)
    assert "no trigger word" in text["notes"]
    convert(artifact, "kohya", out=tmp_path / "folder", sidecars=True, pictures=pictures[:1])
    again = ep.load_artifact(tmp_path / "folder")
    assert sorted(item.layout for item in again.manifest.files) == ["kohya", "sidecar", "sidecar"]
    assert {item.name for item in again.manifest.files} == {
        path.name for path in (tmp_path / "folder").iterdir() if path.name != "erase.json"
    }


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rank": 2, "energy": 0.5}, "not both"),
        ({"rank": 0}, "at least 1"),
        ({"energy": 1.5}, "share above 0"),
        ({"dtype": "int8"}, "unknown dtype"),
    ],
)
def test_contradictory_options(options, words, pocket_target, tmp_path):
    artifact = artifact_of(pocket_target, random_edit(pocket_target, ("cross_kv",)))
    with pytest.raises(RequestError, match=words):
        convert(artifact, "kohya", out=tmp_path / "x.safetensors", **options)


def test_nothing_is_overwritten_or_half_written(pocket_target, tmp_path):
    artifact = artifact_of(pocket_target, random_edit(pocket_target, ("cross_kv",)))
    (tmp_path / "x.safetensors").write_bytes(b"mine")
    for force in (False, True):
        with pytest.raises(ArtifactError, match="exists already"):
            convert(artifact, "kohya", out=tmp_path / "x.safetensors", force=force)
    assert (tmp_path / "x.safetensors").read_bytes() == b"mine"
    (tmp_path / "x.safetensors").unlink()
    convert(artifact, "kohya", out=tmp_path / "x.safetensors")
    (tmp_path / "x.json").write_text("mine")
    with pytest.raises(ArtifactError, match=r"'x\.json' exists already"):
        convert(artifact, "kohya", out=tmp_path / "x.safetensors", force=True, sidecars=True)
    assert (tmp_path / "x.json").read_text() == "mine"
    (tmp_path / "x.json").unlink()
    for _ in range(2):
        convert(artifact, "kohya", out=tmp_path / "x.safetensors", force=True, sidecars=True)
    (tmp_path / "x.json").unlink()
    with pytest.raises(RequestError, match="is a folder"):
        convert(artifact, "peft", out=tmp_path / "y.safetensors")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.safetensors"]
