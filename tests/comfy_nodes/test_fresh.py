"""Every template on a fresh installation without network: it finishes, or its title says what has to be there."""

from __future__ import annotations

import json
import os

import pytest

from tests.comfy_nodes import comfy_server
from tests.comfy_nodes.client import Client
from tests.comfy_nodes.conftest import ROOT
from tests.comfy_nodes.test_examples import WORKFLOWS
from tests.comfy_nodes.workflow import quickly, to_prompt
from tools.docs.comfy.examples import FIRST, PUBLISH, SD15, SDXL, SHELF, STACKED

pytestmark = [pytest.mark.comfy, pytest.mark.slow]
NEEDS = "(needs "
#: title of what needs something -> what the refusal names
MISSING = {
    SD15: "ckpt_name",
    SDXL: "ckpt_name",
    STACKED: "lora_name",
    SHELF: "no artifact 'pocket_20' in models/erase_plugins",
}


@pytest.fixture(scope="module")
def client(environment, tmp_path_factory):
    """A server with ComfyUI's own packages, empty model folders and a Hub that cannot be reached."""
    python, comfy = environment
    base = comfy_server.prepare(tmp_path_factory.mktemp("fresh"), ROOT, "erase_nodes")
    (base / "front").mkdir()
    (base / "front" / "index.html").write_text("no editor in this test", encoding="utf-8")
    path = os.pathsep.join([str(comfy_server.hide(base)), str(ROOT)])
    nobody = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(base / "hf"), "HF_HUB_OFFLINE": "0"}
    port = comfy_server.own_port()
    process = comfy_server.start(python, comfy, base, port, base / "front", path, environment=nobody)
    try:
        comfy_server.wait_ready(process, base, port)
        yield Client(f"http://127.0.0.1:{port}")
    finally:
        comfy_server.stop(process)


def workflow(name):
    return json.loads((ROOT / "example_workflows" / f"{name}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", [path.stem for path in WORKFLOWS if NEEDS not in path.stem])
def test_a_template_without_needs_finishes(client, name):
    found = workflow(name)
    assert found["extra"]["erase_plugins"]["needs"] == []
    ran = client.run(to_prompt(quickly(found), client.get("/object_info")))
    assert ran["status"]["status_str"] == "success", ran["status"]["messages"][-1]


@pytest.mark.parametrize("name", [path.stem for path in WORKFLOWS if NEEDS in path.stem])
def test_a_template_with_needs_names_them_and_is_refused_without_them(client, name):
    found = workflow(name)
    needs = found["extra"]["erase_plugins"]["needs"]
    notes = " ".join(node["widgets_values"][0] for node in found["nodes"] if node["type"] == "Note")
    assert needs
    assert all(need in notes for need in needs)
    status, answer = client.post("/prompt", {"prompt": to_prompt(found, client.get("/object_info"))})
    said = json.dumps(answer)
    if status == 200 and not answer["node_errors"]:
        (ended,) = client.wait(answer["prompt_id"])["status"]["messages"][-1:]
        assert ended[0] == "execution_error"
        said = ended[1]["exception_message"]
    assert MISSING[name] in said


def test_there_are_templates_without_needs():
    assert {path.stem for path in WORKFLOWS} - MISSING.keys() == {FIRST, PUBLISH}
