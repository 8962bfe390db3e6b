"""Every example workflow: valid against the server's own description of nodes, and run where its model is here."""

from __future__ import annotations

import io
import json
import re

import pytest
from PIL import Image

from erase_plugins.testing.hub_server import HubServer
from erase_plugins.testing.hub_store import HubRefusal
from tests.comfy_nodes import comfy_server
from tests.comfy_nodes.assets import prepare
from tests.comfy_nodes.client import Client
from tests.comfy_nodes.conftest import ROOT
from tests.comfy_nodes.workflow import to_prompt
from tools.docs.comfy.examples import LIBRARY, PUBLISH, SD15, SDXL, SHELF, STACKED

pytestmark = [pytest.mark.comfy, pytest.mark.slow]
WORKFLOWS = sorted((ROOT / "example_workflows").glob("*.json"))
#: run with small random checkpoints, and therefore with fewer and smaller steps
RANDOM = (SD15, SDXL)


@pytest.fixture(scope="module")
def hub():
    with HubServer(account="erase-plugins") as server:
        yield server


@pytest.fixture(scope="module")
def client(environment, in_comfy, hub, tmp_path_factory):
    """A server with everything that the workflows ask for."""
    python, comfy = environment
    base = comfy_server.prepare(tmp_path_factory.mktemp("examples"), ROOT, "erase_nodes")
    comfy_server.prepare(base, ROOT / "tests" / "comfy_nodes" / "small_sdxl.py", "small_sdxl.py")
    prepare(base, hub, tmp_path_factory.mktemp("assets"))
    (base / "models" / "checkpoints").mkdir()
    in_comfy("small_checkpoint.py", str(base / "models" / "checkpoints" / "v1-5-pruned-emaonly.safetensors"))
    (base / "front").mkdir()
    (base / "front" / "index.html").write_text("no editor in this test", encoding="utf-8")
    port = comfy_server.own_port()
    more = hub.environment(base / "hf")
    process = comfy_server.start(python, comfy, base, port, base / "front", str(ROOT), environment=more)
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


@pytest.fixture(scope="module")
def history(client, info):
    """What a workflow left behind, by its name; each is run once."""
    found = {}

    def run(name):
        if name not in found:
            found[name] = client.run(graph_of(ROOT / "example_workflows" / f"{name}.json", info))
        return found[name]

    return run


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
            if isinstance(kind, list) and value not in kind and name != "ckpt_name":
                found.append(f"{node['class_type']}.{name}: {value} is not in the list")
            if isinstance(value, int | float) and not options.get("min", value) <= value <= options.get("max", value):
                found.append(f"{node['class_type']}.{name}: {value}")
    return found


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_has_known_nodes_and_valid_values(path, info):
    assert problems(graph_of(path, info), info) == []


@pytest.mark.parametrize("path", [path for path in WORKFLOWS if path.stem not in RANDOM], ids=lambda path: path.stem)
def test_a_workflow_runs_and_saves_a_picture(path, client, history):
    ran = history(path.stem)
    assert ran["status"]["status_str"] == "success", ran["status"]["messages"][-1][1].get("exception_message")
    pictures = [place for output in ran["outputs"].values() for place in output.get("images", ())]
    assert pictures
    for place in pictures:
        assert Image.open(io.BytesIO(client.picture(place))).convert("L").getextrema() != (0, 0)


def made_smaller(graph):
    """The graph with small pictures of few steps; only what it takes to run is changed."""
    for node in graph.values():
        if node["class_type"] == "EmptyLatentImage":
            node["inputs"].update(width=64, height=64)
        if node["class_type"] == "KSampler":
            node["inputs"]["steps"] = 2
    return graph


@pytest.mark.parametrize("name", RANDOM)
def test_templates_of_real_families_run_on_random_weights(client, info, name):
    graph = made_smaller(graph_of(ROOT / "example_workflows" / f"{name}.json", info))
    (loader,) = [node for node in graph.values() if node["class_type"] == "CheckpointLoaderSimple"]
    if name == SDXL:
        loader.update(class_type="SmallSDXL", inputs={})
    ran = client.run(graph)
    assert ran["status"]["status_str"] == "success", ran["status"]["messages"][-1][1].get("exception_message")
    outputs = ran["outputs"].values()
    said = "\n".join(text for output in outputs for text in output.get("text", ()))
    assert re.search(r"patched (\d+) of \1 modules", said)
    assert f"{'SDXL' if name == SDXL else 'SD15'} in ComfyUI" in said
    saved = [place for output in outputs for place in output.get("images", ()) if place["type"] == "output"]
    picture = Image.open(io.BytesIO(client.picture(saved[0]))).convert("RGB")
    assert picture.convert("L").getextrema()[0] < picture.convert("L").getextrema()[1]


def test_what_the_workflows_tell(history):
    def texts(name):
        outputs = history(name)["outputs"].values()
        return "\n".join(text for output in outputs for text in output.get("text", ()))

    assert f"{len(LIBRARY)} of {len(LIBRARY)} in pocket_20" in texts(SHELF)
    assert "erase_pizza: patched 14 of 14 modules" in texts(STACKED)
    push = texts(PUBLISH)
    assert "me/no-pizza" in push
    assert "pytorch_lora_weights.safetensors" in push


def test_the_library_is_that_of_the_workflow_and_nothing_was_published(hub, client):
    assert hub.count("POST /api/models/me/no-pizza/commit/") == 0
    with pytest.raises(HubRefusal, match="not found"):
        hub.files("me/no-pizza")


def test_a_wrong_value_would_be_noticed(info):
    graph = graph_of(WORKFLOWS[0], info)
    graph["2"]["inputs"]["kind"] = "no such kind"
    graph["2"]["inputs"]["strength"] = 99.0
    assert len(problems(graph, info)) == 2
