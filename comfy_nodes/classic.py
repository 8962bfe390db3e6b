"""Node classes in the form that every ComfyUI reads, made from a `NodeSpec`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from erase_plugins.errors import EraseError

from .spec import SEARCHED, Input, NodeSpec, Result
from .wording import in_the_graph, reword

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
        "SEARCH_ALIASES": list(dict.fromkeys((*spec.aliases, *(() if spec.instead else SEARCHED)))),
        "SPEC": spec,
        "execute": _execute(spec),
    }
    if spec.checks:
        members["VALIDATE_INPUTS"] = staticmethod(_validator(spec))
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
    options = {**item.options, "tooltip": item.tooltip}
    if item.type == "INT" and item.name in SEEDS:
        options["control_after_generate"] = False
    return (item.entries() if item.type == "COMBO" else item.type, options)


def _execute(spec: NodeSpec) -> Callable[..., Any]:
    def execute(_self: Any, **values: Any) -> Any:
        try:
            result = spec.run(**values)
        except EraseError as error:
            reword(error)
            raise
        shown = _shown(result)
        return {"ui": shown, "result": result.values} if shown else result.values

    return execute


def _shown(result: Result) -> dict[str, list[Any]]:
    """What the interface draws on the node."""
    shown: dict[str, list[Any]] = {}
    if result.text:
        shown["text"] = [result.text]
    if result.images is not None:
        from .host import previews

        shown["images"] = previews(result.images)
    return {**shown, **result.shown}


def _validator(spec: NodeSpec) -> Callable[..., Any]:
    """One function for all checks. ComfyUI passes the arguments that its signature names, None for linked ones."""

    def validate(**values: Any) -> bool | str:
        for name, check in spec.checks.items():
            problem = None if values.get(name) is None else check(values[name])
            if problem:
                return in_the_graph(problem)
        return True

    parameters = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in spec.checks]
    validate.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return validate
