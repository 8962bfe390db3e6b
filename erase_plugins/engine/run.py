"""Runs a method: hooks, work, edit, manifest. The one path for command line, Python and nodes."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from erase_plugins.artifacts.artifact import Artifact
from erase_plugins.engine.context import Listener, RunContext
from erase_plugins.engine.interrupted import asked
from erase_plugins.engine.own_preset import KEY
from erase_plugins.engine.wording import check_length, doubts
from erase_plugins.errors import PluginError, RunRefused
from erase_plugins.types import EditPlan, Event, Registered


class Hooks(Protocol):
    """What a run tells of: the registry, or a stand-in for it."""

    def before_run(self, plan: EditPlan, target: Any) -> None:
        """Called before any work; may refuse the run."""

    def on_event(self, event: Event) -> None:
        """Called with every event."""

    def after_run(self, plan: EditPlan, edit: Any, error: BaseException | None) -> None:
        """Called with the edit or the error."""


def run_method(
    entry: Registered,
    plan: EditPlan,
    target: Any,
    hooks: Hooks,
    judges: Sequence[Any] = (),
    *,
    work: Path | None = None,
    resume: bool = False,
    listeners: Sequence[Listener] = (),
    cancel: threading.Event | None = None,
    shares: Callable[..., list[float]] | None = None,
    target_rate: Callable[..., float] | None = None,
) -> Artifact:
    """Runs a registered method on a loaded target; see `workflow.run.run_plan`.

    Args:
        entry: the method of the plan, with its provenance.
        plan, target, work, resume, listeners, cancel, shares, target_rate: as for `workflow.run.run_plan`.
        hooks: told before, during and after the run.
        judges: whose worlds tell names that mean nothing to the model.
    """
    request, method = plan.request, entry.item
    check_length(request, target)
    target.check_readable()
    hooks.before_run(plan, target)
    ctx = RunContext(
        method=method.id,
        seed=request.seed,
        device=target.device,
        dtype=target.dtype,
        work=work,
        resume=resume,
        listeners=(*listeners, hooks.on_event),
        cancel=cancel or threading.Event(),
        shares=shares,
        target_rate=target_rate,
        asked=asked(plan),
    )
    for doubt in doubts(request, target, judges):
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
        hooks.after_run(plan, None, error)
        raise
    hooks.after_run(plan, edit, None)
    manifest = build_manifest(entry, plan, target, edit, time.perf_counter() - started, ctx)
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


def build_manifest(entry: Registered, plan: EditPlan, target: Any, edit: Any, seconds: float, ctx: RunContext) -> Any:
    """Manifest of a finished run."""
    from erase_plugins.artifacts.manifest import Manifest, describe_base, package_versions, slug
    from erase_plugins.families.source import resolved_revision

    request = plan.request
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
