"""The template that compares with nodes of other packs: what it keeps beside its graph fits their sockets and widgets."""

from __future__ import annotations

import json

import pytest

from tests.comfy_nodes.conftest import ROOT
from tests.comfy_nodes.rival_packs import NODE_CLASS_MAPPINGS
from tools.docs.comfy.examples import RIVALS

CONTENT = json.loads((ROOT / "example_workflows" / f"{RIVALS}.json").read_text(encoding="utf-8"))
PARTS = {part["kinds"][-1]: part for part in CONTENT["extra"]["erase_plugins"]["where_installed"]}


@pytest.mark.parametrize("kind", NODE_CLASS_MAPPINGS)
def test_nodes_of_others_are_wired_as_they_declare_their_inputs(kind):
    part = PARTS[kind]
    (node,) = [node for node in part["nodes"] if node["type"] == part["kinds"][0]]
    declared = NODE_CLASS_MAPPINGS[kind].INPUT_TYPES()["required"]
    sockets = {
        name: entry[0] for name, entry in declared.items() if entry[0] in ("MODEL", "CLIP", "CONDITIONING", "LATENT")
    }
    assert {item["name"]: item["type"] for item in node["inputs"]} == sockets
    widgets = [entry for name, entry in declared.items() if name not in sockets]
    controls = [entry for entry in widgets if "control_after_generate" in (entry[1:] or ({},))[0]]
    assert len(node["widgets_values"]) == len(widgets) + len(controls)
    assert [link for link in part["links"] if link[3] == node["id"]] == [
        link for link in part["links"] if link[0] in {item["link"] for item in node["inputs"]}
    ]


def test_the_graph_itself_needs_no_other_pack_and_says_so():
    inside = {node["id"] for node in CONTENT["nodes"]}
    assert all(link[1] in inside and link[3] in inside for link in CONTENT["links"])
    used = {number for node in CONTENT["nodes"] for output in node["outputs"] for number in output["links"]}
    assert used == {link[0] for link in CONTENT["links"]}
    (note,) = [node for node in CONTENT["nodes"] if node["type"] == "Note"]
    for part in PARTS.values():
        assert part["note"] == note["id"]
        assert part["absent"] in note["widgets_values"][0]
        assert not inside & {node["id"] for node in part["nodes"]}
