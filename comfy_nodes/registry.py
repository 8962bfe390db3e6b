"""Collects the nodes. A module that fails costs its own nodes only; the doctor node tells."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Sequence

from . import classic, v3
from . import spec as spec_module
from .spec import NodeSpec

#: modules below `nodes`, each with a tuple SPECS
MODULES = (
    "erase", "pocket", "closed_form", "methods", "artifacts", "bake", "stack", "strength", "gate", "embedding",
    "compare", "probe", "attack", "hub", "doctor",
)  # fmt: skip
#: module or node -> why it is missing
FAILURES: dict[str, str] = {}
#: node -> its description, of all that were made
SPECS: dict[str, NodeSpec] = {}


def collect(
    modules: Sequence[str] = MODULES, make: Callable[[NodeSpec], type] | None = None
) -> tuple[dict[str, type], dict[str, str]]:
    """Node classes and titles by id; what cannot be made is noted in `FAILURES`.

    Args:
        modules: below `nodes`.
        make: makes a class of a description; today's form where this ComfyUI has it, else the classic one.
    """
    make = make or (v3.node_class if v3.available() else classic.node_class)
    classes: dict[str, type] = {}
    titles: dict[str, str] = {}
    for name in modules:
        try:
            specs: Sequence[NodeSpec] = importlib.import_module(f".nodes.{name}", __package__).SPECS
        except Exception as error:  # whatever is wrong there must not take the other nodes along
            FAILURES[name] = f"{type(error).__name__}: {error}"
            continue
        _add(specs, classes, titles, make)
    try:
        from erase_plugins.manager import get_manager

        _add(get_manager().comfy_nodes(spec_module), classes, titles, make)
    except Exception as error:
        FAILURES["plugins"] = f"{type(error).__name__}: {error}"
    return classes, titles


def _add(
    specs: Iterable[NodeSpec], classes: dict[str, type], titles: dict[str, str], make: Callable[[NodeSpec], type]
) -> None:
    """Makes the classes of nodes; the first one keeps an id that two claim."""
    for spec in specs:
        try:
            if spec.id in classes:
                raise ValueError(f"two nodes have the id {spec.id}")
            classes[spec.id] = make(spec)
        except Exception as error:
            FAILURES[getattr(spec, "id", "plugins")] = f"{type(error).__name__}: {error}"
            continue
        titles[spec.id] = spec.title
        SPECS[spec.id] = spec
