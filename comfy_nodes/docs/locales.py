"""Translation files of the editor, from the node descriptions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from ..spec import NodeSpec

#: last parts of our menu paths
MENU = ("erase", "load", "make", "apply", "check")


def languages() -> list[str]:
    """Languages that files are written for."""
    return ["en"]


def node_file(specs: Sequence[NodeSpec], language: str) -> str:
    """nodeDefs.json: title, description, names and tooltips of every node."""
    return _dump({spec.id: _node(spec) for spec in sorted(specs, key=lambda spec: spec.id)})


def main_file(language: str) -> str:
    """main.json: names of the menu."""
    return _dump({"nodeCategories": {name: name for name in MENU}})


def _node(spec: NodeSpec) -> dict[str, Any]:
    found: dict[str, Any] = {"display_name": spec.title, "description": spec.description}
    if spec.inputs:
        found["inputs"] = {item.name: _socket(item.name, item.tooltip) for item in spec.inputs}
    found["outputs"] = {str(place): _socket(item.name, item.tooltip) for place, item in enumerate(spec.outputs)}
    return found


def _socket(name: str, tooltip: str) -> dict[str, str]:
    return {"name": name.replace("_", " "), "tooltip": tooltip}


def _dump(content: Any) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
