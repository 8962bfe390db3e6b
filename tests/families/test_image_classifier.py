"""The family of image classifiers: what is recognised, where LoRA may go, labels, pictures beside a model."""

from __future__ import annotations

import numpy
import pytest
import torch
import transformers
from PIL import Image

import erase_plugins as ep
from erase_plugins.errors import RequestError, UnknownName, Unsupported
from erase_plugins.families import labelled_data
from erase_plugins.families.labelled_data import prepared, referred, stored
from erase_plugins.families.labels import class_number
from erase_plugins.types import DataRef, ForgetItem
from erase_plugins.workflow.models import target_of
from tests.classifiers import digits, save, vit

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "image_size": 8}
SWIN = {"image_size": 16, "patch_size": 2, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 2}
CONVS = {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2, "image_size": 16}
#: architecture -> configuration, its settings, number of feed-forward linears
KINDS = {
    "ViTForImageClassification": ("ViTConfig", {**SMALL, "patch_size": 4}, 4),
    "DeiTForImageClassification": ("DeiTConfig", {**SMALL, "patch_size": 4}, 4),
    "BeitForImageClassification": ("BeitConfig", {**SMALL, "patch_size": 4}, 4),
    "Dinov2ForImageClassification": ("Dinov2Config", {**SMALL, "patch_size": 4}, 4),
    "SwinForImageClassification": ("SwinConfig", SWIN, 4),
    "Swinv2ForImageClassification": ("Swinv2Config", SWIN, 4),
    "ConvNextForImageClassification": ("ConvNextConfig", CONVS, 4),
    "ResNetForImageClassification": (
        "ResNetConfig",
        {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]},
        0,
    ),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_live_module_is_recognised_and_its_linears_found(name):
    config, settings, count = KINDS[name]
    model = getattr(transformers, name)(getattr(transformers, config)(num_labels=3, **settings)).eval()
    target = target_of(model)
    assert target.family.id == "image-classifier"
    if count:
        assert len(target.modules("ffn")) == count
        assert all("attention" not in ref.path for ref in target.modules("ffn"))
    else:
        with pytest.raises(Unsupported, match="feed-forward layers of transformer blocks, and model has none"):
            ep.plan(model, ["LABEL_1"], "gs-lora")
    assert len(target.modules("head")) == 1
    with torch.no_grad():
        pictures = torch.randn(2, *(target.classifier.input_shape if count else (3, 32, 32)))
        assert torch.equal(target.classifier.logits(pictures), model(pixel_values=pictures).logits)


def test_labels_by_name_synonym_and_number():
    labels = ("tabby, tabby cat", "red fox", "7")
    assert [class_number(name, labels, "m") for name in ("Tabby Cat", "red fox", 1, "7")] == [0, 1, 1, 2]
    with pytest.raises(UnknownName, match="no label of m named 'red fix'; did you mean 'red fox'"):
        class_number("red fix", labels, "m")
    with pytest.raises(UnknownName):
        class_number(9, labels, "m")


def test_pictures_beside_a_model_and_in_a_folder(tmp_path):
    pictures = digits()
    folder = save(vit(width=16, layers=1), tmp_path / "model", pictures)
    target = target_of(ep.load(str(folder)))
    held = stored(target, "test")
    assert torch.allclose(held.pictures, pictures["test.pictures"] / 127.5 - 1, atol=1e-6)
    place = tmp_path / "data" / "three"
    place.mkdir(parents=True)
    Image.fromarray(pictures["test.pictures"][0, 0].numpy()).save(place / "a.png")
    found = referred(target, DataRef(str(tmp_path / "data")))
    assert found.labels.tolist() == [3]
    assert torch.allclose(found.pictures[0], held.pictures[0], atol=1e-6)
    (place / "b.png").write_text("no picture")
    with pytest.raises(RequestError, match=r"b\.png is no readable picture"):
        referred(target, DataRef(str(tmp_path / "data")))
    (folder / "pictures.safetensors").write_bytes(b"x")
    with pytest.raises(RequestError, match="has no readable test pictures"):
        stored(target, "test")


@pytest.fixture
def seen(tmp_path):
    """What the model is given of pictures in a folder "three", and the folder."""
    target, place = target_of(vit(width=16, layers=1)), tmp_path / "data" / "three"
    place.mkdir(parents=True)
    return place, lambda label=None: referred(target, DataRef(str(place.parent)), label).pictures


def test_greys_of_sixteen_bits_are_scaled_and_not_cut_off(seen):
    place, pictures = seen
    values = numpy.linspace(0, 65535, 64).reshape(8, 8)
    Image.fromarray(values.astype(numpy.uint16)).save(place / "a.png")
    Image.fromarray((values / 65535 * 255).round().astype(numpy.uint8)).save(place / "b.png")
    deep, plain = pictures()
    assert deep.max() - deep.min() > 1.9
    assert torch.allclose(deep, plain, atol=2.01 / 255)


def test_a_picture_that_cannot_be_opened_safely_is_named(seen, monkeypatch):
    place, pictures = seen
    Image.new("1", (60, 60)).save(place / "huge.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(RequestError, match=r"data 'data': huge\.png has more pixels than can be opened safely"):
        pictures()


def test_pictures_of_another_label_are_not_forgotten_by_the_way(seen):
    place, pictures = seen
    Image.new("L", (8, 8)).save(place / "a.png")
    assert len(pictures("three")) == 1
    with pytest.raises(RequestError, match="has pictures of 'three', and all of it is to be forgotten as 'two'"):
        pictures("two")


def test_large_pictures_are_not_held_all_at_once(seen, monkeypatch):
    place, pictures = seen
    for number in range(5):
        Image.new("L", (40, 40), 50 * number).save(place / f"{number}.png")
    counts, all_at_once = [], pictures()
    monkeypatch.setattr(labelled_data, "_PIXELS", 2 * 1600)
    monkeypatch.setattr(labelled_data, "prepared", lambda *given: counts.append(len(given[1])) or prepared(*given))
    assert torch.equal(pictures(), all_at_once)
    assert counts == [3, 2]


def test_without_a_processor_pictures_are_resized_and_scaled():
    target = target_of(vit(width=16, layers=1))
    assert stored(target, "test") is None
    found = prepared(target, [Image.new("RGB", (20, 12), (255, 255, 255))])
    assert found.shape == (1, 1, 8, 8)
    assert torch.equal(found, torch.ones_like(found))


#: architectures on which edits are tried; of ResNet a class has to be forgotten by methods that train all weights
EDITED = ("DeiTForImageClassification", "SwinForImageClassification", "ConvNextForImageClassification",
          "ResNetForImageClassification")  # fmt: skip


def classifier(name):
    config, settings, _ = KINDS[name]
    torch.manual_seed(0)
    return getattr(transformers, name)(getattr(transformers, config)(num_labels=3, **settings)).eval()


def edited(target, rank):
    """An artifact with a change of every linear and convolution that a LoRA file can carry, or of all weights."""
    from erase_plugins.artifacts.artifact import Artifact
    from erase_plugins.artifacts.edit import Dense, Edit, LowRank
    from erase_plugins.artifacts.manifest import Manifest, describe_base

    generator = torch.Generator().manual_seed(1)

    def noise(*shape):
        return 0.05 * torch.randn(*shape, generator=generator)

    deltas = {}
    for ref in target.info.refs:
        if rank and ref.kind == "linear":
            deltas[ref.weight] = LowRank(noise(rank, ref.shape[1]), noise(ref.shape[0], rank))
        elif not rank and ref.kind in ("linear", "conv"):
            deltas[ref.weight] = Dense(noise(*ref.shape))
    edit = Edit(target.family.id, {"model": deltas})
    method = {"id": "uce", "title": "t", "paper": "", "package": "erase-plugins", "version": "0"}
    manifest = Manifest(
        name="x", method=method, concepts=(ForgetItem("LABEL_1", "class"),), base=describe_base(target, None),
        kinds=tuple(edit.kinds), rank=edit.rank, modules=len(deltas),
    )  # fmt: skip
    return Artifact(manifest, edit)


@pytest.mark.parametrize(("rank", "layout"), [(2, "peft"), (0, "")])
@pytest.mark.parametrize("name", EDITED)
def test_an_edit_is_applied_saved_taken_off_and_fused(name, rank, layout, tmp_path):
    model = classifier(name)
    target = target_of(model)
    made, pictures = edited(target, rank), torch.randn(2, *target.classifier.input_shape)
    by_hand = classifier(name)
    with torch.no_grad():
        before = model(pixel_values=pictures).logits
        for _, key, delta in made.edit.items():
            by_hand.get_parameter(key).add_(delta.dense().reshape(by_hand.get_parameter(key).shape))
        wanted = by_hand(pixel_values=pictures).logits
        assert not torch.allclose(before, wanted, atol=1e-3)
        saved = ep.load_artifact(made.save(tmp_path / "a", [item for item in ("patch", layout) if item], target).path)
        with ep.apply(model, saved):
            assert torch.allclose(model(pixel_values=pictures).logits, wanted, atol=1e-4)
        assert torch.equal(model(pixel_values=pictures).logits, before)
        if layout == "peft":
            from peft import PeftModel

            stock = PeftModel.from_pretrained(classifier(name), tmp_path / "a" / "peft_model").eval()
            assert torch.allclose(stock(pixel_values=pictures).logits, wanted, atol=1e-4)
        ep.apply(model, saved).fuse()
        model.save_pretrained(tmp_path / "fused")
        again = ep.load(str(tmp_path / "fused"))
        assert torch.allclose(again(pixel_values=pictures).logits, wanted, atol=1e-4)
