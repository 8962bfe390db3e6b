"""Every template on a fresh installation without network, after both documented ways to install: one click finishes it.

The models folder is empty and ComfyUI has its own packages alone. Templates about published checkpoints say which one
they ask for, in the form that the editor offers as a download, and pocket draws until it is there.
"""

from __future__ import annotations

import json
import os
from urllib.parse import urlparse

import pytest

from erase_plugins.cli.comfy_install import SHIM, asset_folders
from tests.comfy_nodes import comfy_server
from tests.comfy_nodes.client import Client
from tests.comfy_nodes.conftest import ROOT
from tests.comfy_nodes.workflow import hasty, quickly, to_prompt
from tools.docs.comfy.examples import FLUX, SD3, SD15, SDXL

pytestmark = [pytest.mark.comfy, pytest.mark.slow]
TITLES = sorted(path.stem for path in (ROOT / "example_workflows").glob("*.json"))
#: templates that offer a checkpoint
OFFERING = (SD15, SDXL, FLUX, SD3)


def cloned(base):
    """The repository in custom_nodes, nothing else installed: where to look for packages."""
    comfy_server.prepare(base, ROOT, "erase-plugins")
    return []


def pip_installed(base):
    """Packages where pip puts them, and what `comfy-install` writes."""
    site, pack = base / "site", base / "custom_nodes" / "erase-plugins"
    for folder in (site, pack):
        folder.mkdir(parents=True)
    for name in ("erase_plugins", "hub_cards", "comfy_nodes"):
        (site / name).symlink_to(ROOT / name)
    (pack / "__init__.py").write_text(SHIM, encoding="utf-8")
    for name, folder in asset_folders().items():
        (pack / name).symlink_to(folder)
    return [str(site)]


@pytest.fixture(scope="module", params=[cloned, pip_installed], ids=["clone", "pip"])
def client(request, environment, tmp_path_factory):
    """A server with ComfyUI's own packages, empty model folders and a Hub that cannot be reached."""
    python, comfy = environment
    base = tmp_path_factory.mktemp("fresh")
    for folder in comfy_server.FOLDERS:
        (base / folder).mkdir(parents=True)
    path = os.pathsep.join([str(comfy_server.hide(base)), *request.param(base)])
    (base / "front").mkdir()
    (base / "front" / "index.html").write_text("no editor in this test", encoding="utf-8")
    nobody = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(base / "hf"), "HF_HUB_OFFLINE": "0"}
    port = comfy_server.own_port()
    process = comfy_server.start(python, comfy, base, port, base / "front", path, environment=nobody)
    try:
        comfy_server.wait_ready(process, base, port)
        yield Client(f"http://127.0.0.1:{port}")
    finally:
        comfy_server.stop(process)


def workflow(title):
    return json.loads((ROOT / "example_workflows" / f"{title}.json").read_text(encoding="utf-8"))


def test_the_editor_is_given_every_template(client):
    assert sorted(client.get("/workflow_templates")["erase-plugins"]) == TITLES


@pytest.mark.parametrize("title", TITLES)
def test_one_click_finishes_a_template(client, title):
    ran = client.run(hasty(to_prompt(quickly(workflow(title)), client.get("/object_info"))))
    assert ran["status"]["status_str"] == "success", ran["status"]["messages"][-1]
    outputs = ran["outputs"].values()
    assert [place for output in outputs for place in output.get("images", ()) if place["type"] == "output"]
    said = "\n".join(text for output in outputs for text in output.get("text", ()))
    assert ("so pocket, the tiny model that comes with erase-plugins, drew this" in said) == (title in OFFERING)


@pytest.mark.parametrize("title", TITLES)
def test_a_checkpoint_is_offered_in_the_form_that_the_editor_reads(title):
    """The name must be the value of a text or list widget of its node, the address one of a known host."""
    offered = []
    for node in workflow(title)["nodes"]:
        for model in node["properties"].get("models", ()):
            assert model["name"] in node["widgets_values"]
            assert model["directory"] == "checkpoints"
            place = urlparse(model["url"])
            assert (place.scheme, place.hostname) == ("https", "huggingface.co")
            assert place.path.endswith(f"/{model['name']}")
            offered.append(model["name"])
    assert len(offered) == (title in OFFERING)
