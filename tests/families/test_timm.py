"""Models of timm in the family of image classifiers: live, by folder and by Hub id; edits, pictures, labels."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

import erase_plugins as ep
from erase_plugins.errors import EraseError, HubError, MissingExtra, RequestError, Unsupported
from erase_plugins.families.labels import head_of
from erase_plugins.families.source import public_name
from erase_plugins.testing.fixtures import hub_server  # noqa: F401
from erase_plugins.workflow.models import find_model, target_of
from tests.classifiers import NAMES, digits
from tests.families.test_image_classifier import edited

timm = pytest.importorskip("timm")

VIT = {"img_size": 8, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2, "in_chans": 1}
SWIN = {"img_size": 16, "patch_size": 2, "embed_dim": 8, "depths": (1, 1), "num_heads": (1, 2), "window_size": 2}
#: architecture -> its settings, number of feed-forward and of attention linears
KINDS = {
    "vit_tiny_patch16_224": (VIT, 4, 4),
    "deit_tiny_distilled_patch16_224": (VIT, 4, 4),
    "eva02_tiny_patch14_224": ({"img_size": 28, "depth": 1, "embed_dim": 24, "num_heads": 2}, 2, 2),
    "swin_tiny_patch4_window7_224": (SWIN, 4, 4),
    "mixer_s32_224": ({"img_size": 64}, 32, 0),
    "convnext_tiny": ({"depths": (1, 1, 1, 1), "dims": (8, 8, 8, 8)}, 8, 0),
    "resnet10t": ({}, 0, 0),
}


def made(name, count=3):
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=count, **KINDS[name][0]).eval()


def written(folder, name="vit_tiny_patch16_224", names=None, **more):
    """What timm itself writes for a model."""
    model = made(name, len(names) if names else 3)
    told = {"label_names": list(names), **more} if names else {}
    timm.models.save_for_hf(model, str(folder), model_config=told, model_args=KINDS[name][0], safe_serialization=True)
    return model


@pytest.mark.parametrize("name", KINDS)
def test_a_live_model_is_recognised_and_its_linears_found(name):
    model = made(name)
    target = target_of(model)
    assert target.family.id == "image-classifier"
    for group, count in zip(("ffn", "attention"), KINDS[name][1:], strict=True):
        if count:
            assert len(target.modules(group)) == count
        else:
            with pytest.raises(Unsupported):
                target.modules(group)
    assert {ref.path for ref in target.modules("head")} <= {"head", "head_dist", "head.fc", "fc"}
    pictures = torch.randn(2, *target.classifier.input_shape)
    with torch.no_grad():
        assert torch.equal(target.classifier.logits(pictures), model(pictures))
        found = target.classifier.features(pictures)
    assert found.shape == (2, target.modules("head")[0].shape[1])


@pytest.mark.parametrize(("rank", "layout"), [(2, "peft"), (0, "")])
@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "resnet10t"])
def test_an_edit_is_applied_saved_taken_off_and_fused(name, rank, layout, tmp_path):
    model, by_hand = made(name), made(name)
    target = target_of(model)
    artifact, pictures = edited(target, rank), torch.randn(2, *target.classifier.input_shape)
    if rank and name.startswith("vit"):
        assert "blocks.0.attn.qkv.weight" in artifact.edit.deltas["model"]
    with torch.no_grad():
        before = model(pictures)
        for _, key, delta in artifact.edit.items():
            by_hand.get_parameter(key).add_(delta.dense().reshape(by_hand.get_parameter(key).shape))
        wanted = by_hand(pictures)
        assert not torch.allclose(before, wanted, atol=1e-3)
        place = artifact.save(tmp_path / "a", [item for item in ("patch", layout) if item], target).path
        loaded = ep.load_artifact(place)
        with ep.apply(model, loaded):
            assert torch.allclose(model(pictures), wanted, atol=1e-4)
        assert torch.equal(model(pictures), before)
        if layout:
            from peft import PeftModel

            stock = PeftModel.from_pretrained(made(name), place / "peft_model").eval()
            assert torch.allclose(stock(pictures), wanted, atol=1e-4)
            named = json.loads((place / "peft_model" / "adapter_config.json").read_text())["target_modules"]
            assert {name for name, child in model.named_modules() if isinstance(child, torch.nn.Linear)} == set(named)
        ep.apply(model, loaded).fuse()
        timm.models.save_for_hf(model, str(tmp_path / "fused"), model_args=KINDS[name][0], safe_serialization=True)
        again = ep.load(str(tmp_path / "fused"))
        assert torch.allclose(again(pictures), wanted, atol=1e-4)
        assert torch.equal(again(pictures), timm.create_model(f"local-dir:{tmp_path / 'fused'}", True).eval()(pictures))


def test_a_folder_is_planned_without_weights_and_loaded_from_safetensors_only(tmp_path):
    model = written(tmp_path / "m", names=NAMES)
    found = find_model(str(tmp_path / "m"))
    target = found.load()
    assert found.family.id == "image-classifier"
    assert [ref.path for ref in found.family.info("m", found.source.configs).refs] == [
        ref.path for ref in target.info.refs
    ]
    assert target.classifier.labels == NAMES
    pictures = torch.randn(2, 1, 8, 8)
    assert torch.equal(target.classifier.logits(pictures), model(pictures))
    fresh = target.classifier.fresh(3)
    assert set(fresh) == {name for name, _ in model.named_parameters()}
    weights = "blocks.0.mlp.fc1.weight"
    assert not torch.equal(fresh[weights], model.get_parameter(weights))
    assert torch.equal(fresh[weights], target.classifier.fresh(3)[weights])
    (tmp_path / "m" / "pytorch_model.bin").write_bytes(b"never opened")
    assert torch.equal(ep.load(str(tmp_path / "m"))(pictures), model(pictures))
    (tmp_path / "m" / "model.safetensors").rename(tmp_path / "gone")
    with pytest.raises(RequestError, match=r"has no model\.safetensors; pickled weights are not opened"):
        ep.load(str(tmp_path / "m"))
    (tmp_path / "m" / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(RequestError, match=r"model 'm' is damaged: model\.safetensors: 6 bytes long"):
        ep.load(str(tmp_path / "m"))


def test_a_hub_id_as_timm_writes_it(hub_server, tmp_path):  # noqa: F811
    from huggingface_hub import HfApi

    model = written(tmp_path / "m", names=NAMES)
    HfApi().create_repo("tester/tiny-vit")
    HfApi().upload_folder(repo_id="tester/tiny-vit", folder_path=tmp_path / "m")
    pictures = torch.randn(2, 1, 8, 8)
    for name in ("hf-hub:tester/tiny-vit", "hf_hub:tester/tiny-vit@main", "tester/tiny-vit"):
        assert torch.equal(ep.load(name)(pictures), model(pictures))
        assert public_name(name) == "tester/tiny-vit"
    assert ep.plan("hf-hub:tester/tiny-vit", ["three"], "gs-lora", kind="class").modules
    with pytest.raises(HubError, match="no usable model 'tester/none'"):
        ep.load("hf-hub:tester/none")
    with pytest.raises(RequestError, match="name one"):
        find_model("hf-hub:tester/tiny-vit@main", revision="other")


def test_classes_of_timm_models_are_forgotten(tmp_path):
    written(tmp_path / "m", names=NAMES)
    pictures = {name: part[:200].contiguous() for name, part in digits().items()}
    from safetensors.torch import save_file

    save_file(pictures, tmp_path / "m" / "pictures.safetensors")
    options = {"epochs": 2, "epoch_steps": 2, "warmup": 0}
    made = ep.erase(str(tmp_path / "m"), ["three"], "gs-lora", kind="class", options=options, out=tmp_path / "a")
    assert {key.rsplit(".", 2)[1] for _, key, _ in made.edit.items()} <= {"fc1", "fc2"}
    host = ep.load(str(tmp_path / "m"))
    shown = pictures["test.pictures"][:4].float() / 127.5 - 1
    with torch.no_grad():
        before = host(shown)
        with ep.apply(host, ep.load_artifact(tmp_path / "a")):
            assert not torch.equal(host(shown), before)
        assert torch.equal(host(shown), before)
    again = ep.erase(str(tmp_path / "m"), ["three"], "retrain", kind="class", options={"epochs": 1, "epoch_steps": 1})
    assert any("qkv" in key for _, key, _ in again.edit.items())


def test_pictures_are_prepared_as_timm_does_it():
    torchvision = pytest.importorskip("torchvision")
    assert torchvision
    model = timm.create_model("resnet10t", num_classes=3).eval()
    target = target_of(model)
    images = [np.random.default_rng(0).integers(0, 256, (300, 260, 3), dtype=np.uint8)]
    images += [np.random.default_rng(1).integers(0, 256, (90, 120, 3), dtype=np.uint8)]
    own = timm.data.create_transform(**timm.data.resolve_data_config({}, model=model))
    wanted = torch.stack([own(Image.fromarray(item)) for item in images])
    found = target.classifier.prepare(images)
    assert found.shape == wanted.shape == (2, *target.classifier.input_shape)
    assert float((found - wanted).abs().max()) < 1e-5


def test_labels_of_imagenet_of_the_folder_and_numbers(tmp_path):
    live = target_of(timm.create_model("resnet10t").eval()).classifier.labels
    assert live[1].startswith("goldfish")
    assert target_of(made("resnet10t")).classifier.labels == ("0", "1", "2")
    written(tmp_path / "m", names=["n1", "n2", "n3"], label_descriptions={"n1": "owl", "n2": "cat", "n3": "dog"})
    assert target_of(ep.load(str(tmp_path / "m"))).classifier.labels == ("owl", "cat", "dog")


def test_a_model_with_two_heads_has_no_single_one():
    with pytest.raises(Unsupported, match=r"2 heads \(head, head_dist\), whose mean it gives"):
        head_of(target_of(made("deit_tiny_distilled_patch16_224")).info)
    assert head_of(target_of(made("swin_tiny_patch4_window7_224")).info).path == "head.fc"


def test_what_cannot_be_is_one_line(tmp_path, monkeypatch):
    live = made("vit_tiny_patch16_224")
    assert target_of(live).classifier.fresh(0).keys() == dict(live.named_parameters()).keys()
    monkeypatch.setattr(timm.models, "get_model_args", None)  # as before timm 1.0.30
    with pytest.raises(Unsupported, match="cannot be made anew; save it with timm"):
        target_of(live).classifier.fresh(0)
    written(tmp_path / "m")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    (tmp_path / "m" / "config.json").write_text(json.dumps({**config, "architecture": "no_such_net"}))
    with pytest.raises(EraseError, match="timm does not make 'no_such_net'"):
        ep.plan(str(tmp_path / "m"), ["1"], "gs-lora", kind="class")
    monkeypatch.setattr("erase_plugins.extras.installed", lambda package: None if package == "timm" else "1")
    with pytest.raises(MissingExtra, match=r"erase-plugins\[timm\]"):
        ep.load(str(tmp_path / "m"))
