"""Artifacts are opened by name from both model folders and from references."""

from __future__ import annotations

from pathlib import Path

import pytest

import erase_plugins as ep
from comfy_nodes import host, opening
from erase_plugins.errors import ArtifactError


@pytest.fixture
def opened(monkeypatch, tmp_path):
    (tmp_path / "erase_dog").mkdir()
    (tmp_path / "erase_dog" / "erase.json").touch()
    monkeypatch.setattr(host, "artifact_folders", lambda: [tmp_path])
    monkeypatch.setattr(host, "lora_names", lambda: ["x/style.safetensors"])
    monkeypatch.setattr(host, "lora_path", lambda name: Path(name) if name == "x/style.safetensors" else None)
    monkeypatch.setattr(ep, "load_artifact", lambda place: place)
    return tmp_path


def test_every_place_is_looked_at(opened):
    assert opening.open_artifact("erase_dog") == opened / "erase_dog"
    assert opening.open_artifact("x/style.safetensors") == Path("x/style.safetensors")
    assert opening.open_artifact("hub:me/no-dog@v1") == "hub:me/no-dog@v1"


def test_the_nearest_name_of_either_folder_is_told(opened):
    with pytest.raises(ArtifactError, match="the nearest is 'erase_dog'"):
        opening.open_artifact("erase_dig")
    with pytest.raises(ArtifactError, match=r"the nearest is 'x/style\.safetensors'"):
        opening.open_artifact("x/stile.safetensors")
    with pytest.raises(ArtifactError, match="refresh the list"):
        opening.open_artifact("zzz")
