"""Single-file checkpoints: what a file lacks is told, as diffusers itself loads it without a word."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from erase_plugins.errors import RequestError, Unsupported
from erase_plugins.families.loading import open_diffusers
from erase_plugins.families.source import Source, pocket_folder
from erase_plugins.workflow.models import find_model
from tests.cli.conftest import invoke


class Pipe:
    """A pipeline of one full part, one with a gap, and one without weights."""

    def __init__(self, gaps: int) -> None:
        self.components = {"unet": torch.nn.Linear(2, 2), "text_encoder": torch.nn.Linear(2, 2), "tokenizer": object()}
        if gaps:
            self.components["text_encoder"] = torch.nn.Linear(2, 2, device="meta")
        self.device = ""

    def set_progress_bar_config(self, **_options: object) -> None:
        pass

    def to(self, device: str) -> Pipe:
        self.device = device
        return self


@pytest.fixture
def opened(monkeypatch, tmp_path):
    """Opens a file for which diffusers' loader does what is given."""
    import diffusers

    def open_it(load):
        kind = type("HousePipeline", (), {"from_single_file": staticmethod(load)})
        monkeypatch.setattr(diffusers, "HousePipeline", kind, raising=False)
        return open_diffusers(
            "HousePipeline", Source("house", None, tmp_path / "house.safetensors", {}), "float32", "cpu"
        )

    return open_it


def test_a_file_with_gaps_names_the_parts(opened):
    with pytest.raises(
        Unsupported, match=r"^checkpoint 'house' .*missing: text_encoder \(2 of 2 weights\)\. Give a file"
    ):
        opened(lambda _file, **_options: Pipe(gaps=1))
    assert opened(lambda _file, **_options: Pipe(gaps=0)).device == "cpu"


def test_without_the_hub_it_is_said_what_else_there_is(opened):
    def load(_file, **_options):
        raise OSError("no snapshot.\nmore")

    with pytest.raises(
        Unsupported, match=r"from the Hub cache: no snapshot\. Load it once .*or give a diffusers folder"
    ):
        opened(load)


def pocket_copy(place):
    """Pocket as a folder that may be harmed."""
    folder = place / "model"
    shutil.copytree(pocket_folder(), folder)
    return folder


def weights_of(part, place):
    """Whether a part of pocket, or "language", is a whole model; a copy of that model, and its file of weights."""
    whole = part == "language"
    folder = Path(shutil.copytree(pocket_folder().parent / part, place / "model")) if whole else pocket_copy(place)
    (weights,) = (folder if whole else folder / part).glob("*.safetensors")
    return whole, folder, weights


def test_weights_that_came_in_part_are_told_before_anything_is_loaded(tmp_path):
    """The library's message came after seconds, and said neither that the file is too short nor what to do."""
    folder = pocket_copy(tmp_path)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    data = weights.read_bytes()
    weights.with_name("diffusion_pytorch_model.fp16.safetensors").write_bytes(b"version https://git-lfs")  # not loaded
    assert find_model(str(folder)).family.id == "sd1"
    weights.write_bytes(data[:-100])
    told = r"^model 'model' is damaged: unet/diffusion_pytorch_model\.safetensors: tensors take .*; .*fetch it again$"
    with pytest.raises(RequestError, match=told):
        find_model(str(folder))


@pytest.mark.parametrize("kind", ["pictures", "language"])
def test_a_shard_that_did_not_come_is_told_before_anything_is_loaded(tmp_path, kind):
    if kind == "pictures":
        part = pocket_copy(tmp_path) / "unet"
        name, inside = "diffusion_pytorch_model", "unet/"
    else:
        part = Path(shutil.copytree(pocket_folder().parent / "language", tmp_path / "model"))
        name, inside = "model", ""
    first, second = f"{name}-00001-of-00002.safetensors", f"{name}-00002-of-00002.safetensors"
    index = {"metadata": {}, "weight_map": {"a": first, "b": second}}
    (part / f"{name}.safetensors.index.json").write_text(json.dumps(index))
    assert find_model(str(tmp_path / "model")), "the file with all weights is there"
    (part / f"{name}.safetensors").rename(part / first)
    told = rf"^model 'model' is incomplete: {inside}{second} is not there \(1 of 2 files\); fetch it again$"
    with pytest.raises(RequestError, match=told):
        find_model(str(tmp_path / "model"))
    shutil.copy(part / first, part / second)
    assert find_model(str(tmp_path / "model")).family.id


@pytest.mark.parametrize("part", ["unet", "vae", "language"])
def test_a_folder_without_weights_is_refused_before_anything_is_loaded(part, tmp_path):
    """A dry run promised an erasure of it; the run ended with a library's message after seconds."""
    whole, folder, weights = weights_of(part, tmp_path)
    weights.rename(weights.with_suffix(".weights"))
    assert find_model(str(folder)), "a family of another package may call them so"
    weights.with_suffix(".weights").unlink()
    told = f"model 'model' is incomplete: no file of weights in {'it' if whole else f'{part}/'}; fetch it again"
    with pytest.raises(RequestError) as caught:
        find_model(str(folder))
    assert str(caught.value) == told
    for words in (["run", "uce", "--model", folder], ["audit", folder, "--base", folder]):
        ran = invoke(*words, "--erase", "pizza", "--out", tmp_path / "out", "--dry-run")
        assert (ran.code, ran.err.count("\n"), told in ran.err) == (2, 1, True), ran.err


@pytest.mark.parametrize("part", ["unet", "language"])
def test_a_folder_with_pickled_weights_only_is_refused_before_anything_is_loaded(part, tmp_path):
    whole, folder, weights = weights_of(part, tmp_path)
    shutil.copy(weights, weights.with_name("pytorch_model.bin" if whole else "diffusion_pytorch_model.bin"))
    assert find_model(str(folder)), "a pickled copy beside it is not opened"
    weights.unlink()
    told = f"'{'model' if whole else part}' has no {weights.name}; pickled weights are not opened"
    with pytest.raises(RequestError) as caught:
        find_model(str(folder))
    assert str(caught.value) == f"{told}, save the model as safetensors first"


def test_a_part_that_a_model_says_it_has_not_needs_no_weights(tmp_path):
    folder = pocket_copy(tmp_path)
    index = json.loads((folder / "model_index.json").read_text())
    for name, entry in (("text_encoder_3", [None, None]), ("safety_checker", ["a", "B"])):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text("{}")
        index[name] = entry
    (folder / "model_index.json").write_text(json.dumps(index))
    assert find_model(str(folder)).family.id == "sd1"


@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_a_folder_without_a_listed_part_is_not_called_an_unknown_kind(part, tmp_path):
    folder = pocket_copy(tmp_path)
    shutil.rmtree(folder / part)
    with pytest.raises(
        RequestError, match=rf"^'model' is StableDiffusionPipeline, but has no {part}/config\.json; fetch"
    ):
        find_model(str(folder))
