"""The blueprint: a part of a graph that the editor inserts as one node."""

from __future__ import annotations

from typing import Any
from uuid import NAMESPACE_URL, uuid5

from comfy_nodes.erasing import label
from erase_plugins.manager import get_manager

from .graphs import Graph, Ref

NAME = "Erase and compare"
#: shown where the editor lists blueprints, and what finds it there
DESCRIPTION = "Erases a concept from the model and shows the picture with and without it, from the same noise."
ALIASES = ("erase plugins", "unlearn", "remove concept", "before and after")
_INPUTS, _OUTPUTS = -10, -20
#: name of an input -> its type, and (node, socket) of everything it feeds
Ports = dict[str, tuple[str, list[tuple[int, str]]]]


def blueprint(specs: dict[str, Any]) -> dict[str, Any]:
    """Model, CLIP, VAE, prompts and latent in; base and erased pictures and a sheet out, from the same noise."""
    graph = Graph(specs)
    erased, _clip, _edit, report = graph.add(
        "EraseNegative", (300, 20), "pizza -> hamburger", label(get_manager().method("uce")), 1.0, "object", "", ""
    )
    settings = (7, 20, 5.0, "dpmpp_2m", "karras", 1.0)
    (first,) = graph.add("KSampler", (700, 400), *settings, title="Base: same seed")
    (second,) = graph.add("KSampler", (700, 20), *settings, title="Erased: same seed", model=erased)
    (before,) = graph.add("VAEDecode", (1040, 400), samples=first)
    (after,) = graph.add("VAEDecode", (1040, 20), samples=second)
    sheet, _heat, _text = graph.add("EraseCompare", (1040, 160), 1, base=before, erased=after)
    ports = {
        "model": ("MODEL", [(1, "model"), (2, "model")]),
        "clip": ("CLIP", [(1, "clip")]),
        "vae": ("VAE", [(4, "vae"), (5, "vae")]),
        "positive": ("CONDITIONING", [(2, "positive"), (3, "positive")]),
        "negative": ("CONDITIONING", [(2, "negative"), (3, "negative")]),
        "latent": ("LATENT", [(2, "latent_image"), (3, "latent_image")]),
    }
    results = {"base": before, "erased": after, "sheet": sheet, "report": report}
    return _wrapped(graph, ports, results)


def _wrapped(graph: Graph, ports: Ports, results: dict[str, Ref]) -> dict[str, Any]:
    """The graph as the inside of one node with these inputs and outputs."""
    links = [_link(*link) for link in graph.links]
    inputs = []
    for slot, (name, (kind, targets)) in enumerate(ports.items()):
        ids = []
        for node, socket in targets:
            number = len(links) + 1
            entries = graph.nodes[node - 1]["inputs"]
            place = next(index for index, entry in enumerate(entries) if entry["name"] == socket)
            entries[place]["link"] = number
            links.append(_link(number, _INPUTS, slot, node, place, kind))
            ids.append(number)
        inputs.append(
            {"id": _id(f"input {name}"), "name": name, "type": kind, "linkIds": ids, "pos": [180, 60 + 20 * slot]}
        )
    outputs = []
    for slot, (name, source) in enumerate(results.items()):
        number = len(links) + 1
        entry = graph.nodes[source.node - 1]["outputs"][source.slot]
        entry["links"].append(number)
        links.append(_link(number, source.node, source.slot, _OUTPUTS, slot, entry["type"]))
        port = {"id": _id(f"output {name}"), "name": name, "type": entry["type"], "linkIds": [number]}
        outputs.append({**port, "pos": [1420, 60 + 20 * slot]})
    inside = {
        "id": _id("subgraph"), "version": 1, "revision": 0, "config": {}, "name": NAME,
        "state": {"lastGroupId": 0, "lastNodeId": len(graph.nodes), "lastLinkId": len(links), "lastRerouteId": 0},
        "inputNode": {"id": _INPUTS, "bounding": [80, 40, 120, 40 + 20 * len(inputs)]},
        "outputNode": {"id": _OUTPUTS, "bounding": [1400, 40, 120, 40 + 20 * len(outputs)]},
        "inputs": inputs, "outputs": outputs, "widgets": [], "nodes": graph.nodes, "groups": [], "links": links,
        "extra": {},
    }  # fmt: skip
    outside = {
        "id": 1, "type": inside["id"], "pos": [100, 100], "size": [260, 180], "flags": {}, "order": 0, "mode": 0,
        "inputs": [{"name": item["name"], "type": item["type"], "link": None} for item in inputs],
        "outputs": [{"name": item["name"], "type": item["type"], "links": []} for item in outputs],
        "properties": {}, "widgets_values": [], "title": NAME,
    }  # fmt: skip
    return {
        "revision": 0, "last_node_id": 1, "last_link_id": 0, "nodes": [outside], "links": [], "version": 0.4,
        "definitions": {"subgraphs": [inside]},
        "extra": {"BlueprintDescription": DESCRIPTION, "BlueprintSearchAliases": list(ALIASES)},
    }  # fmt: skip


def _link(number: int, origin: int, slot: int, target: int, place: int, kind: str) -> dict[str, Any]:
    return {
        "id": number, "origin_id": origin, "origin_slot": slot, "target_id": target, "target_slot": place, "type": kind,
    }  # fmt: skip


def _id(what: str) -> str:
    """The same id at every writing."""
    return str(uuid5(NAMESPACE_URL, f"erase-plugins blueprint {NAME}: {what}"))
