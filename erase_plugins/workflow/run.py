"""Plans a request and runs it with the method that is registered for it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from erase_plugins.engine.context import Listener
from erase_plugins.engine.own_preset import with_note, with_preset
from erase_plugins.engine.runner import check_items, run_method
from erase_plugins.engine.wording import doubts
from erase_plugins.errors import RequestError, RunRefused, Unsupported
from erase_plugins.families.loading import AUTO, check_device, is_accelerator
from erase_plugins.hints import ANOTHER_TO
from erase_plugins.manager import get_manager
from erase_plugins.needs import lacks, needs_of
from erase_plugins.types import STAND_IN, EditPlan, EraseRequest
from erase_plugins.workflow.models import find_model


def judges() -> list[Any]:
    """All registered judges."""
    return [entry.item for entry in get_manager().evaluators("judge")]


def check_known(request: EraseRequest, target: Any, way_out: str = "name another concept") -> None:
    """Refuses concepts of which it is certain that they mean nothing to a model.

    Raises:
        RunRefused: says why, and ``way_out``.
    """
    said = "; ".join(str(doubt) for doubt in doubts(request, target, judges()) if doubt.certain)
    if said:
        ended = said if said.endswith("?") else f"{said}."
        raise RunRefused(f"{ended} Erasing it would change other pictures only: {way_out}")


def is_light(plan: EditPlan) -> bool:
    """Whether a plan's method encodes prompts and reads weights only, so that the denoiser never runs."""
    asked = getattr(get_manager().method(plan.request.method), "is_light", None)
    return bool(asked is not None and asked(plan))


def make_plan(request: EraseRequest, info: Any = None, layouts: Sequence[str] = ()) -> EditPlan:
    """The plan for a request, from configuration only, after every plugin had its say.

    Args:
        request: what is asked.
        info: what is known of the model; looked up if None.
        layouts: file layouts that the edit is to be written in.

    Raises:
        RequestError, UnknownName, Unsupported: before any weight is loaded.
    """
    manager = get_manager()
    method = manager.method(request.method)
    check_device(request.device)
    request = replace(request, method=method.id)  # the registered spelling, for everything that is written down
    check_items(request, method, [entry.item for entry in manager.methods()])
    for data in request.data:
        data.present()  # before anybody reads a plan that cannot be carried out
    for concept in request.concepts:
        if concept.anchor is not None and concept.anchor.strip().lower() == concept.text.strip().lower():
            raise RequestError(f"'{concept.text}' would become itself, so nothing would be erased; give ", ANOTHER_TO)
    info = info if info is not None else find_model(request.model, request.revision, request.family).info
    if lacks(method, info):
        wanted = sorted(needs_of(method)) or lacks(method, info)
        others = [entry.item.id for entry in manager.methods() if not lacks(entry.item, info)]
        raise Unsupported(
            f"{method.id} needs {', '.join(wanted)}; {info.model} (family {info.family.id}) offers "
            f"{', '.join(sorted(info.offers))}; methods that fit: {', '.join(others) or 'none'}"
        )
    request = with_preset(request, method, info, known_models())
    request = replace(request, dtype=precision_of(request, method, info))
    plan = manager.adjust_plan(with_note(method.plan(request, info), request))
    check_layouts(plan, layouts, info.family)
    return plan


def precision_of(request: EraseRequest, method: Any, info: Any) -> str:
    """The precision that a request names, or for "auto" the one to load the model's weights in.

    Half of the memory is worth it where the weights stay as they are; closed forms that solve with the weights
    themselves, and whole weights that are trained, need all their bits.
    """
    if request.dtype != AUTO:
        return request.dtype
    whole = request.options.get("parameters") == "full" or not getattr(method, "half_weights", False)
    if whole or not is_accelerator(request.device):
        return "float32"
    found: str = info.family.precision(info.configs, adapted=True)
    return found


#: what people call the delta kinds that a plan can know of
_KINDS = {
    "addon": "added modules", STAND_IN: "added modules", "dense": "full weight changes", "lowrank": "low-rank changes",
}  # fmt: skip


def check_layouts(plan: EditPlan, layouts: Sequence[str], family: Any) -> None:
    """Refuses a plan of whose edit no wanted file layout holds everything, as far as both say what.

    Raises:
        Unsupported: training would end with nothing that can be written.
    """
    lost: dict[str, None] = {}
    unnamed: Any = None
    for name in layouts:
        layout = get_manager().layout(name)
        try:
            _named(plan, getattr(layout, "stems", ""), family)
        except Unsupported as error:
            unnamed = unnamed or error
            continue
        carries = getattr(layout, "carries", None)
        kinds = {} if carries is None else dict.fromkeys(kind for kind in plan.produces if kind not in carries)
        kinds.pop("contextmap", None)  # written as what it does to every weight
        if not kinds:
            return
        lost |= kinds
    if unnamed is not None and not lost:
        raise unnamed
    if lost:
        made = " and ".join(_KINDS.get(kind, kind) for kind in lost)
        raise Unsupported(f"this would make {made}, which no {' or '.join(layouts)} file can hold; layout patch does")


def _named(plan: EditPlan, stems: str, family: Any) -> None:
    """Asks a family for the name in a file of a module that will be changed; raises `Unsupported` if it has none."""
    if stems and plan.modules:
        component, _, path = plan.modules[0].partition(".")
        family.stem(stems, component, path)


def known_models() -> set[str]:
    """Kinds of model that a preset may have a table for, of all families."""
    families = [entry.item for entry in get_manager().families()]
    return {family.id for family in families} | {name for family in families for name in family.presets}


def run_plan(
    plan: EditPlan,
    target: Any,
    *,
    work: Path | None = None,
    resume: bool = False,
    listeners: Sequence[Listener] = (),
    cancel: threading.Event | None = None,
    shares: Callable[..., list[float]] | None = None,
    target_rate: Callable[..., float] | None = None,
) -> Any:
    """Runs a plan on a loaded target.

    Args:
        plan: from `make_plan`.
        target: the loaded model.
        work: folder for checkpoints.
        resume: go on from a checkpoint in ``work``.
        listeners: called with every event.
        cancel: set it from another thread to stop.
        shares: measures attribute shares, for methods that balance them.
        target_rate: measures how often the concepts are still seen, for ``stop_at``; without it training runs its
            course.

    Returns:
        The artifact, in memory.

    Raises:
        RequestError: a phrase is longer than what the text encoder reads.
        RunRefused: a hook's veto, or an edit that changes nothing.
        RunCancelled, NotFiniteError and what the method raises; the target is unchanged in any case.
    """
    manager = get_manager()
    manager.method(plan.request.method)
    entry = next(item for item in manager.methods() if item.item.id == plan.request.method)
    return run_method(
        entry, plan, target, manager, judges(), work=work, resume=resume, listeners=listeners, cancel=cancel,
        shares=shares, target_rate=target_rate,
    )  # fmt: skip
