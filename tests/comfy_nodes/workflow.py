"""Turns a workflow file as the editor saves it into the graph that ``/prompt`` takes."""

from __future__ import annotations

from typing import Any

from tools.docs.comfy.graphs import BYPASSED

#: widget types; everything else is a socket
_WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")


def to_prompt(workflow: dict[str, Any], info: dict[str, Any]) -> dict[str, Any]:
    """API graph of an editor workflow.

    Args:
        workflow: editor JSON.
        info: answer of ``/object_info``.
    """
    sources = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    for node in workflow["nodes"]:
        if node["mode"] == BYPASSED:  # as in the editor: an output gives what came in of the same type
            came = {item["type"]: sources[item["link"]] for item in node["inputs"] if item["link"] is not None}
            for output in node["outputs"]:
                sources.update(dict.fromkeys(output["links"], came[output["type"]]))
    graph = {}
    for node in workflow["nodes"]:
        if node["type"] == "Note" or node["mode"] == BYPASSED:  # live in the editor only
            continue
        linked = {item["name"]: sources[item["link"]] for item in node["inputs"] if item["link"] is not None}
        values = list(node["widgets_values"])
        inputs: dict[str, Any] = {}
        declared = info[node["type"]]["input"]
        for name, (kind, *rest) in {**declared.get("required", {}), **declared.get("optional", {})}.items():
            options = rest[0] if rest else {}
            if isinstance(kind, list) or kind in _WIDGETS:
                if not values and "default" in options:  # saved before the widget came
                    inputs[name] = options["default"]
                    continue
                inputs[name] = values.pop(0)
                if options.get("control_after_generate", name in ("seed", "noise_seed")):
                    values.pop(0)
            if name in linked:
                inputs[name] = linked[name]
        assert not values, f"{node['type']} has values left: {values}"
        graph[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return graph


def quickly(workflow: dict[str, Any]) -> dict[str, Any]:
    """The workflow with samplers of two steps and a measurement of one picture; only what it takes to run is changed."""
    beside = workflow["extra"].get("erase_plugins", {}).get("where_installed", ())
    for node in [*workflow["nodes"], *(node for part in beside for node in part["nodes"])]:
        if node["type"] == "EraseReport":
            node["widgets_values"][1:3] = [1, 2]
        if node["type"] in ("KSampler", "KSamplerWithNAG"):
            node["widgets_values"][2] = 2
    return workflow
