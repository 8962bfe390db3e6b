"""``comfy-install``: a folder that ComfyUI imports, and refusals that write nothing."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from erase_plugins.artifacts.atomic import atomic_folder
from erase_plugins.cli.comfy_install import SHIM


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
    assert json.loads((place / "example_workflows" / "Erase a concept and see the difference.json").read_text())[
        "nodes"
    ]
    spec = importlib.util.spec_from_file_location("pack_as_comfyui_names_it", place / "__init__.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert "EraseUCE" in module.NODE_CLASS_MAPPINGS
    assert (Path(module.WEB_DIRECTORY) / "docs" / "EraseUCE.md").is_file()
    assert "EraseNegative" in json.loads((place / "locales" / "en" / "nodeDefs.json").read_text())
    assert (place / "subgraphs").is_dir()
    assert erase("comfy-install", str(comfyui)).code == 0  # again, after an update


def test_the_folder_of_an_earlier_version_is_replaced(erase, comfyui):
    place = comfyui / "custom_nodes" / "erase-plugins"
    shim = place / "__init__.py"
    with atomic_folder(place, kind="node pack") as work:
        (work / "__init__.py").write_text(SHIM.splitlines()[0] + "\n")
        (work / "example_workflows").mkdir()
        (work / "example_workflows" / "gone.json").write_text("{}")
    (place / "__pycache__").mkdir()
    (place / "__pycache__" / "__init__.pyc").write_bytes(b"")
    assert erase("comfy-install", str(comfyui)).code == 0
    assert "NODE_CLASS_MAPPINGS" in shim.read_text()
    assert not (place / "example_workflows" / "gone.json").exists()
    assert [item.name for item in place.parent.iterdir()] == ["erase-plugins"]


def test_a_workflow_that_was_saved_there_is_kept(erase, comfyui):
    assert erase("comfy-install", str(comfyui)).code == 0
    mine = comfyui / "custom_nodes" / "erase-plugins" / "example_workflows" / "mine.json"
    mine.write_text("{}")
    ran = erase("comfy-install", str(comfyui))
    assert ran.code == 2
    assert "did not write (example_workflows/mine.json)" in ran.err.replace("\n", " ")
    assert mine.read_text() == "{}"


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
