"""Runs a method: plan, hooks, work, edit, manifest. The one path for command line, Python and nodes."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from erase_plugins.engine.context import Listener, RunContext
from erase_plugins.engine.interrupted import asked
from erase_plugins.engine.own_preset import KEY, with_note, with_preset
from erase_plugins.engine.wording import check_length, doubts
from erase_plugins.errors import PluginError, RequestError, RunRefused, Unsupported
from erase_plugins.manager import Manager, get_manager
from erase_plugins.types import EditPlan, EraseRequest


def make_plan(request: EraseRequest, info: Any = None) -> EditPlan:
    """The plan for a request, from configuration only, after every plugin had its say.

    Raises:
        RequestError, UnknownName, Unsupported: before any weight is loaded.
    """
    from erase_plugins.families.source import plan_info

    manager = get_manager()
    method = manager.method(request.method)
    for concept in request.concepts:
        if concept.anchor is not None and concept.anchor.strip().lower() == concept.text.strip().lower():
            raise RequestError(f"'{concept.text}' would become itself, so nothing would be erased; give another --to")
    info = info if info is not None else plan_info(request)
    families = method.families
    if "*" not in families and info.family.id not in families:
        others = [entry.item.id for entry in manager.methods() if entry.item.families & {info.family.id, "*"}]
        raise Unsupported(
            f"{method.id} does not support family {info.family.id}, only {', '.join(sorted(families))}; "
            f"methods that do: {', '.join(others) or 'none'}"
        )
    request = with_preset(request, method, info, known_models())
    return manager.adjust_plan(with_note(method.plan(request, info), request))


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
    from erase_plugins.artifacts.artifact import Artifact

    manager = get_manager()
    request = plan.request
    method = manager.method(request.method)
    check_length(request, target)
    target.check_readable()
    manager.before_run(plan, target)
    ctx = RunContext(
        method=method.id,
        seed=request.seed,
        device=target.device,
        dtype=target.dtype,
        work=work,
        resume=resume,
        listeners=(*listeners, manager.on_event),
        cancel=cancel or threading.Event(),
        shares=shares,
        target_rate=target_rate,
        asked=asked(plan),
    )
    for doubt in doubts(request, target):
        ctx.warn(str(doubt))
    started = time.perf_counter()
    try:
        edit = method.run(plan, target, ctx)
        _check_product(method, edit)
        edit.check_finite()
        if edit.is_nothing:
            raise RunRefused(
                f"{method.id} found nothing to change: every change is zero, so nothing was written; check what the "
                "concepts become (--to) and the scales among the options"
            )
    except BaseException as error:
        manager.after_run(plan, None, error)
        raise
    manager.after_run(plan, edit, None)
    manifest = build_manifest(manager, plan, target, edit, time.perf_counter() - started, ctx)
    return Artifact(manifest, edit)


def plan_key(plan: EditPlan) -> str:
    """Hash of everything that decides the result: checkpoints of another plan are not resumed."""
    extra = {name: value for name, value in plan.request.extra.items() if name != KEY}  # its values are in the options
    request = replace(plan.request, out=None, extra=extra)
    text = json.dumps([request.to_dict(), dict(plan.options), plan.modules], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _check_product(method: Any, edit: Any) -> None:
    from erase_plugins.artifacts.edit import Edit

    if not isinstance(edit, Edit):
        raise PluginError(f"method {method.id} returned {type(edit).__name__} instead of an Edit")
    undeclared = edit.kinds - method.produces
    if undeclared:
        raise PluginError(f"method {method.id} made {', '.join(sorted(undeclared))} changes that it does not declare")


def build_manifest(manager: Manager, plan: EditPlan, target: Any, edit: Any, seconds: float, ctx: RunContext) -> Any:
    """Manifest of a finished run."""
    from erase_plugins.artifacts.manifest import Manifest, describe_base, package_versions, slug
    from erase_plugins.families.source import resolved_revision

    request = plan.request
    entry = next(item for item in manager.methods() if item.item.id == request.method)
    name = slug("erase_" + "_".join(concept.text for concept in request.concepts[:3]))
    return Manifest(
        name=name,
        method={
            "id": entry.item.id,
            "title": entry.item.title,
            "paper": entry.item.paper,
            "package": entry.package,
            "version": entry.version,
        },
        concepts=tuple(
            replace(concept, images=tuple(Path(file).name for file in concept.images)) for concept in request.concepts
        ),
        preserve=request.preserve,
        options=dict(plan.options),
        base=describe_base(target, resolved_revision(request.model, request.revision)),
        seed=request.seed,
        kinds=tuple(sorted(edit.kinds)),
        rank=edit.rank,
        modules=len(plan.modules),
        created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        seconds=round(seconds, 3),
        versions=package_versions(),
        notes=plan.notes,
        warnings=tuple(dict.fromkeys((*plan.warnings, *ctx.warnings))),
        extra={
            "numbers": {name: round(value, 6) for name, value in sorted(ctx.numbers.items())},
            **({KEY: request.extra[KEY]} if KEY in request.extra else {}),
        },
    )
