"""What both forms of a node do when it runs and when its widgets are checked. No torch, no ComfyUI."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from erase_plugins.errors import EraseError

from .spec import NodeSpec, Result
from .wording import in_the_graph, reword


def run(spec: NodeSpec, values: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, list[Any]]]:
    """Outputs of a node and what the interface draws on it; errors speak of widgets and sockets.

    Args:
        spec: the node.
        values: by input.
    """
    try:
        result = spec.run(**values)
    except EraseError as error:
        reword(error)
        raise
    return result.values, _shown(result)


def _shown(result: Result) -> dict[str, list[Any]]:
    shown: dict[str, list[Any]] = {}
    if result.text:
        shown["text"] = [result.text]
    if result.images is not None:
        from .host import previews

        shown["images"] = previews(result.images)
    return {**shown, **result.shown}


def validator(spec: NodeSpec, *first: str) -> Callable[..., Any]:
    """One function for all checks. ComfyUI passes the arguments that its signature names, None for linked ones.

    Args:
        spec: the node.
        first: names of arguments in front, for a method of a class.
    """

    def validate(*_: Any, **values: Any) -> bool | str:
        for name, check in spec.checks.items():
            if values.get(name) is None:
                continue
            others = spec.beside.get(name)
            known = () if others is None else ({item for item in others if _given(values, item)},)
            problem = check(values[name], *known)
            if problem:
                return in_the_graph(problem)
        return True

    names = dict.fromkeys((*first, *spec.checks, *(item for others in spec.beside.values() for item in others)))
    parameters = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in names]
    validate.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return validate


def _given(values: Mapping[str, Any], name: str) -> bool:
    """Whether something is written into an input, or connected with it: then ComfyUI says None."""
    return name in values and (values[name] is None or bool(str(values[name]).strip()))
