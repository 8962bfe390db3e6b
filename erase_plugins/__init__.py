"""Concept erasure for generative models as installable plugins.

Public names are loaded on first use, so that importing the package costs milliseconds and never imports torch.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from erase_plugins import late
from erase_plugins.hookspecs import hookimpl

__version__ = "0.1.0"

#: public name -> module that defines it
_PUBLIC = {
    "get_manager": "erase_plugins.manager",
    "load": "erase_plugins.api",
    "erase": "erase_plugins.api",
    "plan": "erase_plugins.api",
    "applied": "erase_plugins.workflow.applying",
    "apply": "erase_plugins.workflow.applying",
    "generate": "erase_plugins.api",
    "attack": "erase_plugins.api",
    "auto": "erase_plugins.autotune.run",
    "evaluate": "erase_plugins.api",
    "load_artifact": "erase_plugins.workflow.artifacts",
    "clean_lora": "erase_plugins.workflow.cleaning",
    "merge": "erase_plugins.compose",
    "add": "erase_plugins.compose",
    "revoke": "erase_plugins.compose",
    "push": "erase_plugins.sharing",
    "pull": "erase_plugins.sharing",
    "search": "erase_plugins.sharing",
    "Concept": "erase_plugins.types",
    "DataRef": "erase_plugins.data",
    "ForgetItem": "erase_plugins.types",
    "EraseRequest": "erase_plugins.types",
    "AttackReport": "erase_plugins.types",
    "EvalReport": "erase_plugins.types",
    "Artifact": "erase_plugins.artifacts.artifact",
    "Edit": "erase_plugins.artifacts.edit",
    "LowRank": "erase_plugins.artifacts.edit",
}

__all__ = ["__version__", "hookimpl", *sorted(_PUBLIC)]

if TYPE_CHECKING:
    from erase_plugins.api import attack, erase, evaluate, generate, load, plan
    from erase_plugins.artifacts.artifact import Artifact
    from erase_plugins.artifacts.edit import Edit, LowRank
    from erase_plugins.autotune.run import auto
    from erase_plugins.compose import add, merge, revoke
    from erase_plugins.data import DataRef
    from erase_plugins.manager import get_manager
    from erase_plugins.sharing import pull, push, search
    from erase_plugins.types import AttackReport, Concept, EraseRequest, EvalReport, ForgetItem
    from erase_plugins.workflow.applying import applied, apply
    from erase_plugins.workflow.artifacts import load_artifact
    from erase_plugins.workflow.cleaning import clean_lora


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'erase_plugins' has no attribute '{name}'")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)


#: method of `Artifact`, or what a lower room asks for -> the function that does it
_METHODS = {
    "save": ("erase_plugins.workflow.artifacts", "save_artifact"),
    "apply": ("erase_plugins.workflow.applying", "apply"),
    "card": ("erase_plugins.sharing", "card"),
    "family": ("erase_plugins.workflow.artifacts", "family_of"),
    "attacks": ("erase_plugins.manager", "registered_attacks"),
    "suites": ("erase_plugins.manager", "registered_suites"),
    "guard_stage": ("erase_plugins.manager", "registered_guard_stage"),
    "erase": ("erase_plugins.api", "erase"),
    "load": ("erase_plugins.workflow.artifacts", "load_artifact"),
}


def _method(module: str, name: str) -> Callable[..., Any]:
    return lambda *arguments, **options: getattr(importlib.import_module(module), name)(*arguments, **options)


late.VERSION = __version__
late.FUNCTIONS.update({method: _method(*place) for method, place in _METHODS.items()})
