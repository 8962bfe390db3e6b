"""Turns a workflow file as the editor saves it into the graph that ``/prompt`` takes."""

from __future__ import annotations

from typing import Any

#: widget types; everything else is a socket
_WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")


def to_prompt(workflow: dict[str, Any], info: dict[str, Any]) -> dict[str, Any]:
    """API graph of an editor workflow.

    Args:
        workflow: editor JSON.
        info: answer of ``/object_info``.
    """
    sources = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    graph = {}
    for node in workflow["nodes"]:
        if node["type"] == "Note":  # lives in the editor only
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
    """The workflow with a measurement of one picture in two steps; `test_examples.py` runs it as it is shipped."""
    for node in workflow["nodes"]:
        if node["type"] == "EraseReport":
            node["widgets_values"][1:3] = [1, 2]
    return workflow
