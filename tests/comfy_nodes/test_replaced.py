"""A model file that is replaced while ComfyUI runs is read again; what was made of the old one is not handed out for it."""

from __future__ import annotations

import pytest

from comfy_nodes import files, making, real
from comfy_nodes.nodes.pocket import SPECS
from erase_plugins.types import Concept


@pytest.fixture
def file(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"one")
    monkeypatch.setattr(real, "path_of", lambda name: path if name == path.name else None)
    monkeypatch.setattr(files, "find_model", lambda name: path)
    return path


def test_the_loader_runs_again(file):
    loader = next(spec for spec in SPECS if spec.id == "ErasePocketLoader")
    before = loader.state(checkpoint=file.name)
    assert before == loader.state(checkpoint=file.name) != loader.state(checkpoint="other") == ""
    file.write_bytes(b"another")
    assert loader.state(checkpoint=file.name) != before


def test_a_method_is_asked_again(file):
    job = making.Job("esd", (Concept("pizza"),), (), {}, 0, file.name, 0)
    before = job._question(None)
    assert before == job._question(None)
    file.write_bytes(b"another")
    assert job._question(None) != before


def test_a_folder_counts_with_all_its_files(tmp_path):
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "weights.safetensors").write_bytes(b"one")
    before = files.stamp(tmp_path)
    (tmp_path / "unet" / "weights.safetensors").write_bytes(b"another")
    assert files.stamp(tmp_path) != before
