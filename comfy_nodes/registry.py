"""Collects the nodes. A module that fails costs its own nodes only; the doctor node tells."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from .classic import node_class
from .spec import NodeSpec

#: modules below `nodes`, each with a tuple SPECS
MODULES = (
    "pocket", "closed_form", "methods", "artifacts", "stack", "strength", "gate", "embedding", "compare", "probe",
    "hub", "doctor",
)  # fmt: skip
#: module or node -> why it is missing
FAILURES: dict[str, str] = {}


def collect(modules: Sequence[str] = MODULES) -> tuple[dict[str, type], dict[str, str]]:
    """Node classes and titles by id; what cannot be made is noted in `FAILURES`."""
    classes: dict[str, type] = {}
    titles: dict[str, str] = {}
    for name in modules:
        try:
            specs: Sequence[NodeSpec] = importlib.import_module(f".nodes.{name}", __package__).SPECS
        except Exception as error:  # whatever is wrong there must not take the other nodes along
            FAILURES[name] = f"{type(error).__name__}: {error}"
            continue
        for spec in specs:
            try:
                classes[spec.id] = node_class(spec)
            except Exception as error:
                FAILURES[spec.id] = f"{type(error).__name__}: {error}"
                continue
            titles[spec.id] = spec.title
    return classes, titles
