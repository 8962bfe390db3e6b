"""Forget sets: the file, and what a classifier makes of it; tensors in memory as data."""

from __future__ import annotations

import json

import pytest
import torch

import erase_plugins as ep
from erase_plugins.errors import ArtifactError, RequestError
from erase_plugins.families.forget_set import ForgetSet, items_of, read_set
from erase_plugins.families.labelled_data import both_sets, pool_of, referred
from erase_plugins.types import DataRef, EraseRequest, ForgetItem
from erase_plugins.workflow.models import target_of
from tests.classifiers import digits, save, vit


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    pictures = {name: part[:40] for name, part in digits().items()}
    return save(vit(width=16, layers=1), tmp_path_factory.mktemp("set") / "model", pictures)


@pytest.fixture
def target(folder):
    return target_of(ep.load(str(folder)))


def split(target, file, *retain):
    request = EraseRequest("m", tuple(items_of(DataRef(str(file)))), "gs-lora", retain=retain)
    return both_sets(target, request, 1.0, torch.Generator().manual_seed(0))


def test_a_file_comes_back_and_is_only_replaced_if_it_is_ours(tmp_path):
    made = ForgetSet("data", (1, 4), data={"name": "x", "sha256": "", "count": 9}, forget_set={"method": "m"})
    place = made.save(tmp_path / "a.json")
    assert read_set(place) == made
    with pytest.raises(ArtifactError, match="exists already"):
        made.save(place)
    made.save(place, force=True)
    (tmp_path / "b.json").write_text('{"mine": 1}')
    with pytest.raises(ArtifactError, match="was not written by erase-plugins"):
        made.save(tmp_path / "b.json", force=True)
    with pytest.raises(RequestError, match=r"'b\.json' is no forget set"):
        read_set(tmp_path / "b.json")


def test_rows_are_forgotten_and_the_rest_is_retained(target, tmp_path):
    pool, told = pool_of(target, None)
    file = ForgetSet("data", (0, 7, 39), data=told).save(tmp_path / "a.json")
    forget, retain = split(target, file)
    assert torch.equal(forget.pictures, pool.pictures[[0, 7, 39]])
    assert torch.equal(forget.labels, pool.labels[[0, 7, 39]])
    assert len(retain) == 37
    assert torch.equal(retain.pictures[0], pool.pictures[1])


def test_a_set_of_other_data_is_refused(target, tmp_path):
    pictures, labels = torch.zeros(5, 1, 8, 8), torch.tensor([0, 1, 2, 3, 4])
    data = DataRef.held(pictures, labels)
    _, told = pool_of(target, data)
    file = ForgetSet("data", (2,), data=told).save(tmp_path / "a.json")
    forget, retain = split(target, file, data)
    assert (forget.labels.tolist(), retain.labels.tolist()) == ([2], [0, 1, 3, 4])
    with pytest.raises(RequestError, match=r"made of other data \(memory:[0-9a-f]+, 5 rows\) than the pictures beside"):
        split(target, file)
    everything = ForgetSet("data", tuple(range(5)), data=told).save(tmp_path / "b.json")
    with pytest.raises(RequestError, match="something must be left to retain"):
        split(target, everything, data)


def test_classes_become_items_with_labels(tmp_path):
    file = ForgetSet("class", names=("three", "eight")).save(tmp_path / "a.json")
    assert items_of(DataRef(str(file))) == [ForgetItem(label=name, kind="class") for name in ("three", "eight")]


@pytest.mark.parametrize(
    "fields",
    [{"wise": "data"}, {"wise": "rows", "rows": [1]}, {"wise": "data", "rows": [1, 1]},
               {"wise": "data", "rows": [-1]}, {"wise": "data", "rows": [True]}, {"wise": "class"}],
)  # fmt: skip
def test_a_broken_set_is_refused(fields, tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(fields))
    with pytest.raises(RequestError, match="forget set"):
        read_set(tmp_path / "a.json")


def test_tensors_in_memory_are_data(target):
    pictures = digits()
    raw, labels = pictures["train.pictures"][:6], pictures["train.labels"][:6]
    found = referred(target, DataRef.held(raw, labels))
    pool, _ = pool_of(target, None)
    assert torch.equal(found.pictures, pool.pictures[:6])  # bytes are prepared as those beside the model
    assert torch.equal(referred(target, DataRef.held(found.pictures, labels)).pictures, found.pictures)
    assert DataRef.held(raw, labels) == DataRef.held(raw.clone(), labels.clone())
    assert "row" not in next(iter(DataRef.held(raw, labels).rows()))


@pytest.mark.parametrize(
    ("pictures", "labels", "message"),
    [(torch.zeros(2, 1, 8, 8), torch.tensor([0]), "2 pictures and 1 labels"),
     (torch.zeros(2, 1, 9, 8), torch.tensor([0, 1]), "takes"),
     (torch.full((2, 1, 8, 8), float("nan")), torch.tensor([0, 1]), "NaN"),
     (torch.zeros(2, 1, 8, 8), torch.tensor([0, 10]), "has 10")],
)  # fmt: skip
def test_tensors_that_do_not_fit_are_refused(target, pictures, labels, message):
    with pytest.raises(RequestError, match=message):
        referred(target, DataRef.held(pictures, labels))


def test_data_of_another_process_are_missed():
    with pytest.raises(RequestError, match="was in the memory of another process"):
        DataRef(f"memory:{'0' * 64}").pinned()


def test_a_dataset_gives_pictures(target, tmp_path):
    datasets = pytest.importorskip("datasets")
    from PIL import Image

    raw, labels = digits()["train.pictures"][:4], digits()["train.labels"][:4].tolist()
    images = [Image.fromarray(item[0].numpy()) for item in raw]
    table = datasets.Dataset.from_dict(
        {"image": images, "label": labels},
        features=datasets.Features(image=datasets.Image(), label=datasets.Value("int64")),
    )
    table.save_to_disk(tmp_path / "table")
    found = referred(target, DataRef(f"datasets:{tmp_path / 'table'}"))
    pool, _ = pool_of(target, None)
    assert found.labels.tolist() == labels
    assert torch.allclose(found.pictures, pool.pictures[:4], atol=1e-6)
