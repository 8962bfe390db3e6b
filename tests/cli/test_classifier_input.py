"""What people ask of classifiers by mistake: one line that says what to do, nothing written, nothing lost."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import erase_plugins as ep
from erase_plugins.errors import EraseError
from erase_plugins.manager import get_manager
from erase_plugins.types import DataRef
from tests import classifiers

FEW = ("--set", "epochs=1", "--set", "epoch_steps=1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("input")
    model = classifiers.small(place / "model")
    pictures = load_file(model / "pictures.safetensors")
    for name, number, count in (("three", 3, 4), ("one", 1, 4)):
        (place / "sorted" / name).mkdir(parents=True)
        for row in (pictures["train.labels"] == number).nonzero()[:count, 0].tolist():
            Image.fromarray(pictures["train.pictures"][row, 0].numpy()).save(place / "sorted" / name / f"{row}.png")
    (place / "noisy" / "one").mkdir(parents=True)  # the same threes, said to be ones
    for path in (place / "sorted" / "three").iterdir():
        shutil.copy(path, place / "noisy" / "one" / path.name)
    (place / "alien" / "dragon").mkdir(parents=True)
    shutil.copy(next((place / "sorted" / "one").iterdir()), place / "alien" / "dragon" / "a.png")
    (place / "bare").mkdir()
    (place / "broken" / "one").mkdir(parents=True)
    (place / "broken" / "one" / "a.png").write_text("no picture")
    for name, change in (
        ("without-threes", lambda p, y: (p[y != 3], y[y != 3])), ("beyond", lambda p, y: (p, y + 1)),
        ("nan", lambda p, y: (p.float().index_fill(0, torch.tensor([7]), torch.nan), y)),
    ):  # fmt: skip
        shutil.copytree(model, place / name)
        found, labels = change(pictures["train.pictures"], pictures["train.labels"])
        save_file({**pictures, "train.pictures": found, "train.labels": labels}, place / name / "pictures.safetensors")
    (place / "twice.jsonl").write_text('{"row": 1}\n{"row": 1}\n')
    (place / "far.jsonl").write_text('{"row": 4000}\n')
    (place / "all.jsonl").write_text("".join(json.dumps({"row": row}) + "\n" for row in range(400)))
    return place


ALL = [word for name in classifiers.NAMES for word in ("--erase", name)]
#: (method, model, words, what is said, what to do)
CASES = {
    "everything": ("gs-lora", "model", ALL, "all 10 labels of model would be forgotten", "leave at least one"),
    "every picture": ("finetune", "model", ["--forget", "all.jsonl"], "no pictures are left to retain", "give some"),
    "a class without pictures": (
        "gs-lora", "without-threes", ["--erase", "three"], "no pictures of 'three' beside", "--forget folder"
    ),
    "an empty folder": (
        "gs-lora", "model", ["--erase", "three", "--forget", "bare"], "'bare' is empty", "no files in the folder"
    ),
    "no folder": ("gs-lora", "model", ["--erase", "three", "--forget", "none"], "no data at 'none'", "give a folder"),
    "a class outside the head": ("gs-lora", "model", ["--erase", "eleven"], "no label of model named 'eleven'", "seven"),
    "a number outside the head": ("gs-lora", "model", ["--erase", "10"], "no label of model named '10'", "Known: eight"),
    "a folder of a class outside the head": (
        "gs-lora", "model", ["--erase", "three", "--retain", "alien"], "no label of model named 'dragon'", "Known: eight"
    ),
    "labels outside the head": (
        "gs-lora", "beyond", ["--erase", "three"], "has labels that the model does not have", "pictures.safetensors"
    ),
    "erased and kept": (
        "gs-lora", "model", ["--erase", "three", "--keep", "three"], "both erased and kept: three", "take it out"
    ),
    "retained pictures of the class": (
        "gs-lora", "model", ["--erase", "three", "--retain", "sorted"], "4 pictures to retain have a label", "without 'three'"
    ),
    "the same pictures under another label": (
        "gs-lora", "model", ["--erase", "three", "--forget", "sorted/three", "--retain", "noisy"],
        "4 pictures are to be forgotten and to be retained under another label", "take them out of one set",
    ),
    "no parent": (
        "gs-lora-plus", "model", ["--erase", "three", "--set", "parent=nobody"], "nobody", "artifact"
    ),
    "NaN in pictures": ("gs-lora", "nan", ["--erase", "three"], "1 of 400 pictures hold NaN", "take them out"),
    "no picture at all": (
        "gs-lora", "model", ["--erase", "three", "--forget", "broken"], "a.png is no readable picture", "a.png"
    ),
    "a row twice": ("finetune", "model", ["--forget", "twice.jsonl"], "names a picture twice", "name each row once"),
    "a row that is not there": ("finetune", "model", ["--forget", "far.jsonl"], "picture 4000; there are 400", "400"),
    "a record by a method for classes": ("gs-lora", "model", ["--forget", "twice.jsonl"], "label", "name"),
    "a class by a method for records": ("noisy-gd", "model", ["--erase", "three"], "'three' is none", "gs-lora"),
}  # fmt: skip


def state_of(place):
    return {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}


@pytest.mark.parametrize("case", CASES)
def test_by_the_command_line(folder, erase, monkeypatch, case):
    method, model, words, said, hint = CASES[case]
    monkeypatch.chdir(folder)
    before = state_of(folder)
    ran = erase("run", method, "--model", model, *words, *(() if method == "noisy-gd" else FEW), "--out", "out")
    assert ran.code not in (0, 1), ran.err
    last = ran.err.strip().splitlines()[-1]
    assert said in last, ran.err
    assert hint in last, ran.err
    assert "Traceback" not in ran.err
    assert str(folder) not in ran.err
    assert state_of(folder) == before


def reading(data_kind=("class", "samples", "record")):
    """(method, kind) for every classifier method that reads pictures."""
    for entry in get_manager().methods():
        method = entry.item
        if method.needs == {"classifier"} and getattr(method, "reads_data", False):
            yield method.id, next(kind for kind in data_kind if kind in method.kinds)


@pytest.mark.parametrize(("method", "kind"), reading())
@pytest.mark.parametrize("empty", ["bare", "blank.jsonl"])
def test_nothing_to_retain_is_refused_by_the_plan(folder, erase, monkeypatch, method, kind, empty):
    monkeypatch.chdir(folder)
    (folder / "blank.jsonl").write_text("\n \n")
    words = ("--erase", "three") if kind == "class" else ("--forget", "twice.jsonl")
    given = ("run", method, "--model", "model", "--kind", kind, *words, "--out", "out", "--dry-run")
    assert erase(*given).code == 0
    ran = erase(*given, "--retain", empty)
    assert ran.code == 2
    (line,) = [line for line in ran.err.splitlines() if "error" in line.lower()]
    assert f"data '{empty}' is empty" in line
    assert "or name another" in line


BUDGETS = {
    "above the number": (("--budget", "401"), "401"), "all of them": (("--budget", "100%"), "400"),
    "none": (("--budget", "0"), "0"), "no number": (("--budget", "many"), "many"),
    "classes": (("--budget", "10", "--wise", "class"), "10"),
}  # fmt: skip


@pytest.mark.parametrize("case", BUDGETS)
def test_budgets(folder, erase, monkeypatch, case):
    words, said = BUDGETS[case]
    monkeypatch.chdir(folder)
    before = state_of(folder)
    ran = erase("worst-case", "finetune", "--model", "model", *words, "--out", "set.json")
    assert ran.code not in (0, 1)
    assert said in ran.err
    assert "budget" in ran.err
    assert "\n" not in ran.err.strip()
    assert state_of(folder) == before


def test_what_is_there_already_is_not_lost(folder, erase, monkeypatch, tmp_path):
    monkeypatch.chdir(folder)
    place = tmp_path / "mine"
    place.mkdir()
    (place / "thesis.txt").write_text("a year of work")
    for more in ((), ("--force",)):
        ran = erase("run", "gs-lora", "--model", "model", "--erase", "three", *FEW, "--out", place, *more)
        assert ran.code not in (0, 1)
        assert "mine" in ran.err
    assert [path.name for path in place.iterdir()] == ["thesis.txt"]


def test_wrong_labels_are_noticed(folder, tmp_path, monkeypatch):
    made = ep.erase(str(folder / "model"), ["seven"], "gs-lora", kind="class", options={"epochs": 1, "epoch_steps": 1})
    assert not any("labels may be" in text for text in made.manifest.warnings)
    from erase_plugins.types import ForgetItem

    item = ForgetItem(label="seven", kind="class", data=DataRef(str(folder / "sorted" / "three")))
    found = ep.erase(str(folder / "model"), [item], "gs-lora", options={"epochs": 1, "epoch_steps": 1})
    assert any("right: their labels may be wrong" in text for text in found.manifest.warnings)


@pytest.mark.parametrize("fault", ["no image", "short", "no labels", "strange label", "NaN"])
def test_tensors_in_memory(folder, fault):
    pictures, labels = torch.zeros(3, 1, 8, 8), torch.tensor([3, 3, 1])
    given = {
        "no image": (torch.zeros(3, 2, 8, 8), labels), "short": (pictures[:2], labels), "no labels": (pictures[:0],
        labels[:0]), "strange label": (pictures, torch.tensor([3, 3, 10])), "NaN": (pictures / 0, labels),
    }[fault]  # fmt: skip
    with pytest.raises(EraseError) as told:
        from erase_plugins.types import ForgetItem

        ep.erase(str(folder / "model"), [ForgetItem(kind="samples", data=DataRef.held(*given))], "finetune")
    assert "\n" not in str(told.value)


def test_a_dataset_of_the_package_datasets(folder, tmp_path):
    datasets = pytest.importorskip("datasets")
    paths = sorted((folder / "sorted" / "three").iterdir())
    made = datasets.Dataset.from_dict({"image": [str(path) for path in paths], "label": ["three"] * len(paths)})
    made.cast_column("image", datasets.Image()).save_to_disk(str(tmp_path / "threes"))
    from erase_plugins.types import ForgetItem

    options = {"epochs": 1, "epoch_steps": 1}
    by_folder, by_dataset = (
        ep.erase(str(folder / "model"), [ForgetItem(label="three", kind="class", data=DataRef(uri))], "gs-lora",
                 options=options)
        for uri in (str(folder / "sorted" / "three"), f"datasets:{tmp_path / 'threes'}")
    )  # fmt: skip
    for (_, key, first), (_, other, second) in zip(by_folder.edit.items(), by_dataset.edit.items(), strict=True):
        assert key == other
        assert torch.equal(first.dense(), second.dense())
    assert Path(by_dataset.manifest.concepts[0].data.uri).name in ("threes", "datasets:threes")
