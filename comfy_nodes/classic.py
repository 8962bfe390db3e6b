"""Node classes in the form that every ComfyUI reads, made from a `NodeSpec`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import running
from .spec import Input, NodeSpec

#: inputs behind which the editor puts a widget that changes them after every run; ours stay, or work is done again
SEEDS = ("seed", "noise_seed")


def node_class(spec: NodeSpec) -> type:
    """The class that ComfyUI registers for ``spec``."""
    members: dict[str, Any] = {
        "__doc__": spec.description,
        "INPUT_TYPES": classmethod(lambda _cls: input_types(spec)),
        "RETURN_TYPES": tuple(item.type for item in spec.outputs),
        "RETURN_NAMES": tuple(item.name for item in spec.outputs),
        "OUTPUT_TOOLTIPS": tuple(item.tooltip for item in spec.outputs),
        "FUNCTION": "execute",
        "CATEGORY": spec.category,
        "DESCRIPTION": spec.description,
        "OUTPUT_NODE": spec.is_output,
        "EXPERIMENTAL": spec.experimental,
        "DEPRECATED": bool(spec.instead),
        "SEARCH_ALIASES": list(spec.searched),
        "SPEC": spec,
        "execute": _execute(spec),
    }
    if spec.checks:
        members["VALIDATE_INPUTS"] = staticmethod(running.validator(spec))
    if spec.state is not None:
        state = spec.state
        members["IS_CHANGED"] = staticmethod(lambda **values: state(**values))
    return type(spec.id, (), members)


def input_types(spec: NodeSpec) -> dict[str, dict[str, Any]]:
    """Inputs as ComfyUI asks for them; combos are listed anew at every call."""
    found: dict[str, dict[str, Any]] = {"required": {}}
    for item in spec.inputs:
        group = found.setdefault("required" if item.required else "optional", {})
        group[item.name] = _declared(item)
    if spec.hidden:
        found["hidden"] = dict(spec.hidden)
    return found


def _declared(item: Input) -> tuple[Any, dict[str, Any]]:
    options = {**options_of(item), "tooltip": item.tooltip}
    return (item.entries() if item.type == "COMBO" else item.type, options)


def options_of(item: Input) -> dict[str, Any]:
    """Options of a widget; a seed is not changed after a run, and a large box, which classic nodes draw without its
    name, says it while it is empty."""
    options = dict(item.options)
    if options.get("multiline"):
        example = options.get("placeholder")
        options["placeholder"] = f"{item.name}, for example:\n{example}" if example else item.name
    if item.type == "INT" and item.name in SEEDS:
        options["control_after_generate"] = False
    return options


def _execute(spec: NodeSpec) -> Callable[..., Any]:
    def execute(_self: Any, **values: Any) -> Any:
        found, shown = running.run(spec, values)
        return {"ui": shown, "result": found} if shown else found

    return execute
