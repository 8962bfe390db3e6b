"""``comfy-install``: a folder that ComfyUI imports, and refusals that write nothing."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest


@pytest.fixture
def comfyui(tmp_path):
    place = tmp_path / "ComfyUI"
    (place / "custom_nodes").mkdir(parents=True)
    (place / "nodes.py").write_text("")
    return place


def test_the_written_folder_gives_the_nodes(erase, comfyui):
    ran = erase("comfy-install", str(comfyui), "--json")
    assert ran.code == 0
    place = comfyui / "custom_nodes" / "erase-plugins"
    assert json.loads(ran.out)["folder"] == str(place)
    assert json.loads((place / "example_workflows" / "erase_and_compare_pocket.json").read_text())["nodes"]
    spec = importlib.util.spec_from_file_location("pack_as_comfyui_names_it", place / "__init__.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert "EraseUCE" in module.NODE_CLASS_MAPPINGS
    assert (Path(module.WEB_DIRECTORY) / "docs" / "EraseUCE.md").is_file()
    assert "EraseUCE" in json.loads((place / "locales" / "en" / "nodeDefs.json").read_text())
    assert (place / "subgraphs").is_dir()
    assert erase("comfy-install", str(comfyui)).code == 0  # again, after an update


def test_the_folder_of_an_earlier_version_is_replaced(erase, comfyui):
    assert erase("comfy-install", str(comfyui)).code == 0
    place = comfyui / "custom_nodes" / "erase-plugins"
    shim = place / "__init__.py"
    shim.write_text(shim.read_text().splitlines()[0] + "\n")
    (place / "example_workflows" / "gone.json").write_text("{}")
    assert erase("comfy-install", str(comfyui)).code == 0
    assert "NODE_CLASS_MAPPINGS" in shim.read_text()
    assert not (place / "example_workflows" / "gone.json").exists()


def test_dry_run_writes_nothing(erase, comfyui):
    assert erase("comfy-install", str(comfyui), "--dry-run").code == 0
    assert list((comfyui / "custom_nodes").iterdir()) == []


def test_another_folder_is_refused(erase, tmp_path):
    ran = erase("comfy-install", str(tmp_path))
    assert ran.code == 2
    assert "is no ComfyUI folder" in ran.err


def test_what_is_not_ours_is_not_replaced(erase, comfyui):
    place = comfyui / "custom_nodes" / "erase-plugins"
    place.mkdir()
    (place / "__init__.py").write_text("mine")
    ran = erase("comfy-install", str(comfyui))
    assert ran.code == 2
    assert (place / "__init__.py").read_text() == "mine"
