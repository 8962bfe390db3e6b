"""The help page of a node, and the table of all nodes, as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from comfy_nodes.spec import Input, NodeSpec

IMAGES = "images"


def help_page(spec: NodeSpec, folder: Path) -> str:
    """The page that the editor opens for a node.

    Args:
        spec: the node.
        folder: where the pages lie; a picture ``images/<id>.png`` there is shown.
    """
    parts = [f"# {spec.title}", spec.description]
    if (folder / IMAGES / f"{spec.id}.png").is_file():
        parts.append(f"![The node {spec.title}]({IMAGES}/{spec.id}.png)")
    if spec.instead:
        parts.append(f"No longer in the menu; take {spec.instead}. Workflows with this node load and run as before.")
    parts.append("## Inputs")
    if spec.inputs:
        rows = ["| input | type | default | meaning |", "|---|---|---|---|"]
        parts.append("\n".join(rows + [_input_row(item) for item in spec.inputs]))
    else:
        parts.append("None.")
    rows = ["| output | type | meaning |", "|---|---|---|"]
    rows += [f"| {item.name} | {item.type} | {_cell(item.tooltip)} |" for item in spec.outputs]
    parts += ["## Outputs", "\n".join(rows)]
    for title, text in (("When to use another node", spec.when), ("Cost", spec.cost)):
        if text:
            parts += [f"## {title}", text]
    if spec.paper:
        parts += ["## Paper", f"<{spec.paper}>"]
    return "\n\n".join(parts) + "\n"


def node_table(specs: Sequence[NodeSpec]) -> str:
    """One row per node: where it is in the menu, what it does; then those that are no longer there."""
    rows = ["| menu | node | does |", "|---|---|---|"]
    rows += [f"| {spec.category} | {_link(spec)} | {_cell(spec.description)} |" for spec in specs if not spec.instead]
    gone = [f"| {_link(spec)} | {_cell(spec.instead)} |" for spec in specs if spec.instead]
    if gone:
        rows += ["", "No longer in the menu, but loaded and run as before where a workflow has them:", ""]
        rows += ["| node | take instead |", "|---|---|", *gone]
    return "\n".join(rows)


def _link(spec: NodeSpec) -> str:
    return f"[{spec.title}](../comfy_nodes/web/docs/{spec.id}.md)"


def _input_row(item: Input) -> str:
    name = item.name if item.required else f"{item.name} (optional)"
    return f"| {name} | {_type(item)} | {_default(item)} | {_cell(item.tooltip)} |"


def _type(item: Input) -> str:
    if item.type == "COMBO" and not callable(item.choices):
        return "one of " + ", ".join(_cell(str(choice)) for choice in item.choices)
    if "min" in item.options and "max" in item.options:
        return f"{item.type}, {item.options['min']:g} to {item.options['max']:g}"
    return item.type


def _default(item: Input) -> str:
    default = item.options.get("default", "")
    return _cell(f"`{default}`") if default != "" else ""


def _cell(text: str) -> str:
    """Text that does not leave its table cell."""
    return text.replace("|", "\\|").replace("\n", " ")
