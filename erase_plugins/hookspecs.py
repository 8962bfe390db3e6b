"""The hooks. All are called with keywords; an outside package joins through the entry point group "erase_plugins".

    [project.entry-points.erase_plugins]
    my-eraser = "my_eraser"

The module named there holds functions decorated with `erase_plugins.hookimpl`. Registration hooks return objects, so
that a broken plugin can be left out and every object can be traced to the package it came from.
"""

# specs have docstrings only
# mypy: disable-error-code="empty-body"

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from pathlib import Path

    from erase_plugins.artifacts.artifact import Artifact
    from erase_plugins.artifacts.edit import Edit
    from erase_plugins.families.base import Family, Target
    from erase_plugins.protocols import Attack, Evaluator, GuardStage, Judge, Layout, Method, Suite
    from erase_plugins.types import EditPlan, EvalReport, Event

PROJECT = "erase_plugins"
#: raised when a hook changes its name or arguments; a plugin may state what it was written for as ERASE_PLUGINS_API
API_VERSION = 1
#: plugins written for the hooks from here on still work: raised when a hook that they may use goes away
API_OLDEST = 1
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def erase_methods() -> Iterable[Method]:
    """Methods that turn a plan and a target into an Edit."""


@hookspec
def erase_families() -> Iterable[Family]:
    """Model families: everything that is specific to an architecture."""


@hookspec
def erase_layouts() -> Iterable[Layout]:
    """File layouts that can be written and read."""


@hookspec
def erase_judges() -> Iterable[Judge]:
    """Judges: they look at what a model makes (pictures today) and say what it shows."""


@hookspec
def erase_suites() -> Iterable[Suite]:
    """Suites: they measure a model with an edit and return a report, with figures and other files attached."""


@hookspec
def erase_attacks() -> Iterable[Attack]:
    """Attacks: they try to bring an erased concept back within a budget, and report how often it came."""


@hookspec
def erase_guard_stages() -> Iterable[GuardStage]:
    """Types of stages of which guards are made: what acts while a model runs."""


@hookspec
def erase_evaluators() -> Iterable[Evaluator]:
    """Deprecated: judges, suites and attacks in one list, told apart by an attribute ``kind``.

    Still understood in this version; `erase_judges`, `erase_suites` and `erase_attacks` take its place.
    """


@hookspec
def erase_cli_commands(cli: Any) -> None:
    """Adds sub-commands to the click group ``cli``."""


@hookspec
def erase_comfy_nodes(spec: Any) -> Iterable[Any]:
    """Nodes for ComfyUI, made with ``spec.NodeSpec``, ``spec.Input``, ``spec.Output`` and ``spec.Result``."""


@hookspec
def erase_adjust_plan(plan: EditPlan) -> EditPlan | None:
    """Replaces the plan (dataclasses.replace) or returns None to leave it; plugins are chained."""


@hookspec
def erase_before_run(plan: EditPlan, target: Target) -> None:
    """Last word before work starts; raise `RunRefused` to veto."""


@hookspec
def erase_on_event(event: Event) -> None:
    """Progress and numbers of a run. Failures are recorded as problems, never fatal."""


@hookspec
def erase_after_run(plan: EditPlan, edit: Edit | None, error: BaseException | None) -> None:
    """Called after success and after failure; exactly one of ``edit`` and ``error`` is None."""


@hookspec
def erase_artifact_saved(artifact: Artifact) -> None:
    """The artifact folder is complete; add side files or notify."""


@hookspec
def erase_card_sections(artifact: Artifact, report: EvalReport | None) -> Iterable[Any]:
    """Extra sections for the model card."""


@hookspec
def erase_before_push(bundle: Any, destination: str) -> None:
    """Last word before an upload; raise `PushRefused` to veto."""


@hookspec
def erase_resolve_artifact(reference: str) -> Path | None:
    """The local folder or file of a reference such as "hub:name/repository@revision"; None if it is another's."""


@hookspec
def erase_functions() -> Mapping[str, Callable[..., Any]]:
    """Functions by the public name under which erase_plugins offers them ("push", "pull", "search", "card")."""
