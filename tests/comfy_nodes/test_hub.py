"""What the Hub nodes do besides the Hub package: clear words where it is missing, commits in metadata, no token."""

from __future__ import annotations

import importlib
import sys
from types import SimpleNamespace

import pytest

from comfy_nodes import host, hub
from comfy_nodes.nodes.hub import SPECS, repo_problem
from hub_cards.errors import reaching

COMMIT = "a" * 40


@pytest.mark.parametrize("missing", ["hub_cards.pulling", "huggingface_hub.utils"])
def test_a_missing_package_is_named_with_the_command(monkeypatch, missing):
    real = importlib.import_module

    def importing(name):
        if name == missing:
            raise ImportError(f"No module named '{missing.split('.')[0]}'")
        return real(name)

    monkeypatch.setattr(importlib, "import_module", importing)
    with pytest.raises(
        hub.HubMissing,
        match=r"(run: pip install huggingface_hub|erase-plugins again from where you got it), then restart",
    ):
        hub.part("pulling")


def test_the_commit_is_found_in_the_cache(tmp_path):
    folder = tmp_path / COMMIT
    folder.mkdir()
    (folder / "a.safetensors").touch()
    for path in (folder, folder / "a.safetensors"):
        assert hub.commit_in_cache(SimpleNamespace(path=path)) == COMMIT
    assert hub.commit_in_cache(SimpleNamespace(path=tmp_path)) is None
    assert hub.is_pinned(f"me/x@{COMMIT}")
    assert hub.is_pinned(f"hub:me/x@{COMMIT}#dog")
    assert not hub.is_pinned("me/x@main")


def test_every_repository_is_copied_into_a_folder_of_its_own():
    """A name that is cut must not be that of another one: its copy would be replaced without a word."""
    from erase_plugins.artifacts.manifest import check_name

    owner = "an-organisation-of-people/erase-artist-van-gogh-"
    found = [hub.folder_name(f"{owner}{end}") for end in ("v1", "v2")]
    assert found[0] != found[1]
    assert found == [hub.folder_name(f"{owner}{end}") for end in ("v1", "v2")]
    for name in found:
        check_name(name)
        assert len(name) <= 40
    assert hub.folder_name("me/no-pizza") == "me_no_pizza"


def test_metadata_name_the_commit_in_the_widget_of_the_node():
    prompt = {"2": {"inputs": {"repo": "me/x", "keep": True}}, "3": {"inputs": {"reference": "hub:me/x"}}}
    nodes = [
        {"id": 2, "type": "EraseHubPull", "widgets_values": ["me/x", True, False]},
        {"id": 3, "type": "EraseLoadArtifact", "widgets_values": ["a", 1.0, 1.0, False, "hub:me/x"]},
    ]
    workflow = {"workflow": {"nodes": nodes}}
    hub.write_down({"repo": "me/x@c"}, prompt, workflow, "2")
    hub.write_down({"reference": "hub:me/x@c"}, prompt, workflow, 3)
    hub.write_down({"repo": "me/x@c"}, None, None, None)
    assert prompt == {"2": {"inputs": {"repo": "me/x@c", "keep": True}}, "3": {"inputs": {"reference": "hub:me/x@c"}}}
    assert [node["widgets_values"] for node in nodes] == [
        ["me/x@c", True, False], ["a", 1.0, 1.0, False, "hub:me/x@c"],
    ]  # fmt: skip


@pytest.mark.parametrize("link", [[7, 1, 0, 2, 0, "STRING"], {"id": 7, "origin_id": 1, "target_id": 2}])
def test_a_text_from_another_node_becomes_the_commit_and_its_wire_goes(link):
    prompt = {"2": {"inputs": {"repo": ["1", 0]}}}
    nodes = [
        {"id": 1, "type": "PrimitiveString", "outputs": [{"links": [7, 8]}], "widgets_values": ["me/x"]},
        {"id": 2, "type": "EraseHubPull", "inputs": [{"name": "repo", "link": 7, "widget": {"name": "repo"}}],
         "widgets_values": ["", False, False]},
    ]  # fmt: skip
    other = [8, 1, 0, 3, 0, "STRING"]
    workflow = {"nodes": nodes, "links": [link, other]}
    hub.write_down({"repo": "me/x@c"}, prompt, {"workflow": workflow}, "2")
    assert prompt["2"]["inputs"]["repo"] == "me/x@c"
    assert workflow["links"] == [other]
    assert nodes[0]["outputs"][0]["links"] == [8]
    assert nodes[1]["inputs"][0]["link"] is None
    assert nodes[1]["widgets_values"] == ["me/x@c", False, False]


def test_metadata_name_the_commit_of_a_node_in_a_subgraph_unless_others_are_made_of_the_same():
    def workflow(hosts):
        inner = {"id": 3, "type": "EraseLoadArtifact", "widgets_values": ["a", 1.0, 1.0, False, "hub:me/x"],
                 "inputs": [{"name": "reference", "link": 5, "widget": {"name": "reference"}}]}  # fmt: skip
        graph = {"id": "uuid", "nodes": [inner], "links": [{"id": 5, "origin_id": -10, "target_id": 3}],
                 "inputs": [{"name": "reference", "linkIds": [5]}]}  # fmt: skip
        outer = {"id": "outer", "nodes": [{"id": 2, "type": "uuid"}]}
        nodes = [{"id": host, "type": "outer"} for host in hosts]
        return {"nodes": nodes, "definitions": {"subgraphs": [graph, outer]}}, graph

    whole, graph = workflow([13])
    prompt = {"13:2:3": {"inputs": {"reference": "hub:me/x"}}}
    hub.write_down({"reference": "hub:me/x@c"}, prompt, {"workflow": whole}, "13:2:3")
    assert prompt["13:2:3"]["inputs"] == {"reference": "hub:me/x@c"}
    assert graph["nodes"][0]["widgets_values"][-1] == "hub:me/x@c"
    assert (graph["links"], graph["inputs"][0]["linkIds"], graph["nodes"][0]["inputs"][0]["link"]) == ([], [], None)
    whole, graph = workflow([13, 14])
    hub.write_down({"reference": "hub:me/x@c"}, {}, {"workflow": whole}, "13:2:3")
    assert graph["nodes"][0]["widgets_values"][-1] == "hub:me/x"
    hub.write_down({"reference": "hub:me/x@c"}, {}, {"workflow": whole}, "13:9:3")


@pytest.mark.parametrize("name", ["", "pizza", "a/b/c", "/b", "a/", "a b/c"])
def test_what_is_no_repository_is_refused(name):
    assert "is not a repository" in str(repo_problem(name))
    assert repo_problem("me/no-pizza@v1") is None
    assert repo_problem("hub:me/no-pizza") is None


def test_no_node_has_a_place_for_a_token():
    names = [item.name for spec in SPECS for item in spec.inputs]
    assert not [name for name in names if "token" in name or "key" in name or "password" in name]
    push = next(spec for spec in SPECS if spec.id == "EraseHubPush")
    assert next(item for item in push.inputs if item.name == "publish").options["default"] is False


def test_a_stop_while_downloading_is_comfyuis_own_exception(monkeypatch):
    """The Hub package turns every exception of a download into its own; a stop passes through it."""

    class Interrupt(Exception):
        pass

    def stop():
        raise Interrupt

    moved = []
    management = SimpleNamespace(
        InterruptProcessingException=Interrupt, throw_exception_if_processing_interrupted=lambda: None
    )
    bar = SimpleNamespace(update_absolute=lambda done, total: moved.append((done, total)))
    utils = SimpleNamespace(ProgressBar=lambda _total: bar)
    monkeypatch.setitem(sys.modules, "comfy", SimpleNamespace(model_management=management, utils=utils))
    monkeypatch.setitem(sys.modules, "comfy.model_management", management)
    monkeypatch.setitem(sys.modules, "comfy.utils", utils)
    with pytest.raises(Interrupt), host.downloading() as tell, reaching("pull from", "me/x"):
        tell(1, 4)
        management.throw_exception_if_processing_interrupted = stop
        tell(2, 4)
    assert moved == [(1, 4), (2, 4)]
