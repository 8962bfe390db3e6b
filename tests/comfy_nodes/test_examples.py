"""Every example workflow: valid against the server's own description of nodes, and run where its model is here."""

from __future__ import annotations

import io
import json
import re

import pytest
from PIL import Image

from tests.comfy_nodes import comfy_server
from tests.comfy_nodes.client import Client
from tests.comfy_nodes.conftest import ROOT
from tests.comfy_nodes.workflow import quickly, to_prompt
from tools.docs.comfy.examples import FIRST, PUBLISH, SD15, SD15_FILE, SDXL, SHELF, STACKED
from tools.docs.comfy.library import COLLECTION, ERASED

pytestmark = [pytest.mark.comfy, pytest.mark.slow]
WORKFLOWS = sorted((ROOT / "example_workflows").glob("*.json"))
#: run with small random checkpoints
RANDOM = (SD15, SDXL)
#: lists of files that templates ask for and that are not there
MISSING = {("ErasePocketLoader", "checkpoint")}


#: letters of a title that the template browser shows in a window of 1280 pixels
SEEN = 37


def test_titles_differ_where_the_template_browser_cuts_them():
    titles = [path.stem[:SEEN] for path in WORKFLOWS]
    assert len(titles) == len(set(titles)) > 5


@pytest.fixture(scope="module")
def client(environment, preloaded_comfy, small_checkpoint, tmp_path_factory):
    """A server with small random models where the templates look for published ones."""
    _, comfy = environment
    base = comfy_server.prepare(tmp_path_factory.mktemp("examples"), ROOT, "erase_nodes")
    for pack in ("small_sdxl.py", "few_steps.py"):
        comfy_server.prepare(base, ROOT / "tests" / "comfy_nodes" / pack, pack)
    (base / "models" / "checkpoints").mkdir()
    (base / "models" / "checkpoints" / SD15_FILE).hardlink_to(small_checkpoint)
    told = "from tests.comfy_nodes.small_sdxl import shallow\nshallow()\nNODE_CLASS_MAPPINGS = {}\n"
    (base / "custom_nodes" / "shallow.py").write_text(told, encoding="utf-8")
    (base / "front").mkdir()
    (base / "front" / "index.html").write_text("no editor in this test", encoding="utf-8")
    port = comfy_server.own_port()
    process = comfy_server.start(preloaded_comfy, comfy, base, port, base / "front", str(ROOT))
    try:
        comfy_server.wait_ready(process, base, port)
        yield Client(f"http://127.0.0.1:{port}")
    finally:
        comfy_server.stop(process)


@pytest.fixture(scope="module")
def info(client):
    return client.get("/object_info")


def graph_of(path, info):
    return to_prompt(json.loads(path.read_text(encoding="utf-8")), info)


def read(name):
    return (ROOT / "example_workflows" / f"{name}.json").read_text(encoding="utf-8")


def problems(graph, info):
    """Values that the server's description of a node does not allow; links are left to the server."""
    found = []
    for node in graph.values():
        declared = info[node["class_type"]]["input"]
        every = {**declared.get("required", {}), **declared.get("optional", {})}
        found += [
            f"{node['class_type']} needs {name}" for name in declared.get("required", {}) if name not in node["inputs"]
        ]
        for name, value in node["inputs"].items():
            kind, options = every[name][0], (every[name] + [{}])[1]
            if isinstance(value, list):
                continue
            if isinstance(kind, list) and value not in kind and (node["class_type"], name) not in MISSING:
                found.append(f"{node['class_type']}.{name}: {value} is not in the list")
            if isinstance(value, int | float) and not options.get("min", value) <= value <= options.get("max", value):
                found.append(f"{node['class_type']}.{name}: {value}")
    return found


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_has_known_nodes_and_valid_values(path, info):
    assert problems(graph_of(path, info), info) == []


@pytest.mark.parametrize("name", RANDOM)
def test_templates_of_real_families_run_on_random_weights(client, info, name):
    """The loader finds the file and leaves the stand-in; Stable Diffusion XL comes from a node, since no file is small."""
    graph = to_prompt(quickly(json.loads(read(name))), info)
    (key,) = [key for key, node in graph.items() if node["class_type"] == "ErasePocketLoader"]
    graph[key]["inputs"]["pictures"] = 1
    if name == SDXL:
        graph[key] = {"class_type": "SmallSDXL", "inputs": {}}
        graph["latent"] = {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}}
        (shown,) = [item for item in graph if graph[item]["inputs"].get("source") == [key, 4]]
        del graph[shown]
    if name == SD15:  # a corner of the picture, which is there only if the latent has the model's own 512 pixels
        crop = {"samples": [key, 3], "width": 64, "height": 64, "x": 448, "y": 448}
        graph["latent"] = {"class_type": "LatentCrop", "inputs": crop}
    for node in graph.values():
        if node["inputs"].get("latent_image"):
            node["inputs"]["latent_image"] = ["latent", 0]
    ran = client.run(graph)
    assert ran["status"]["status_str"] == "success", ran["status"]["messages"][-1][1].get("exception_message")
    outputs = ran["outputs"].values()
    said = "\n".join(text for output in outputs for text in output.get("text", ()))
    assert re.search(r"patched (\d+) of \1 modules", said)
    assert f"{'SDXL' if name == SDXL else 'SD15'} in ComfyUI" in said
    assert (f"drawn by {SD15_FILE}" in said) == (name == SD15)
    assert "pocket" not in said
    saved = [place for output in outputs for place in output.get("images", ()) if place["type"] == "output"]
    picture = Image.open(io.BytesIO(client.picture(saved[0]))).convert("RGB")
    assert picture.convert("L").getextrema()[0] < picture.convert("L").getextrema()[1]
    if name == SD15:
        assert min(picture.size) == 64


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (SHELF, [f"{len(ERASED)} of {len(ERASED)} in {COLLECTION}"]),
        (STACKED, ["erase_beer: patched 14 of 14 modules"]),
        (PUBLISH, ["me/no-pizza", "pytorch_lora_weights.safetensors"]),
    ],
)
def test_what_a_workflow_tells(client, info, name, told):
    ran = client.run(to_prompt(quickly(json.loads(read(name))), info))
    said = "\n".join(text for output in ran["outputs"].values() for text in output.get("text", ()))
    assert [part for part in told if part not in said] == []


def test_a_wrong_value_would_be_noticed(info):
    graph = graph_of(ROOT / "example_workflows" / f"{FIRST}.json", info)
    (erase,) = [node for node in graph.values() if node["class_type"] == "EraseNegative"]
    erase["inputs"].update(kind="no such kind", strength=99.0)
    assert len(problems(graph, info)) == 2
