"""Runs a method: what it may be asked, hooks, work, edit, manifest. The one path for command line, Python and nodes."""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Protocol

from erase_plugins.artifacts.artifact import Artifact
from erase_plugins.artifacts.edit import Edit
from erase_plugins.artifacts.verify import file_hash
from erase_plugins.engine.checkpoint import asked
from erase_plugins.engine.context import Listener, RunContext
from erase_plugins.engine.own_preset import KEY
from erase_plugins.engine.wording import check_length, doubts
from erase_plugins.errors import PluginError, RunRefused, Unsupported
from erase_plugins.hints import Hint
from erase_plugins.types import (
    KINDS,
    Certificate,
    DataRef,
    EditPlan,
    EraseRequest,
    Event,
    ForgetItem,
    Registered,
    RunResult,
)

#: kinds of concepts in pictures; methods say themselves why they cannot erase one of them
_PICTURED = frozenset(KINDS[:4])


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
    plan = with_hashes(plan)
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
        base=" ".join(f"{name} {item.short}" for name, item in sorted(target.fingerprint().items())),
    )
    for doubt in doubts(request, target, judges):
        ctx.warn(str(doubt))
    started = time.perf_counter()
    try:
        edit, result = checked(method, method.run(plan, target, ctx), target.family.id)
        edit.check_finite("; lower the learning rate")
        if len(edit) and edit.is_nothing:
            raise RunRefused(
                f"{method.id} found nothing to change: every change is zero, so nothing was written; check what the "
                "concepts become (",
                Hint("to"),
                ") and the scales among the options",
            )
    except BaseException as error:
        hooks.after_run(plan, None, error)
        raise
    hooks.after_run(plan, edit, None)
    manifest = build_manifest(entry, plan, target, edit, result, time.perf_counter() - started, ctx)
    return Artifact(manifest, edit)


def with_hashes(plan: EditPlan) -> EditPlan:
    """The plan with the hash of all data that it names, read now; data that changed since it was hashed is refused."""
    request = plan.request
    forget = tuple(item if item.data is None else replace(item, data=item.data.pinned()) for item in request.forget)
    retain = tuple(item.pinned() if isinstance(item, DataRef) else item for item in request.retain)
    if forget == request.forget and retain == request.retain:
        return plan
    return replace(plan, request=replace(request, forget=forget, retain=retain))


def public_options(options: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Option values for a manifest: of places on this machine the last part only."""
    places = {item.name for item in fields(options) if item.metadata.get("place")}
    return {name: _last(value) if name in places and value else value for name, value in values.items()}


def _last(place: str) -> str:
    """Places between commas without the folders that lead to them."""
    return ",".join(re.split(r"[/\\]", item.rstrip("/\\"))[-1] for item in place.split(","))


def _public(item: ForgetItem) -> ForgetItem:
    """The item without the user's folders."""
    data = None if item.data is None else item.data.public()
    return replace(item, images=tuple(Path(file).name for file in item.images), data=data)


def plan_key(plan: EditPlan) -> str:
    """Hash of everything that is asked and decides the result: checkpoints of another plan are not resumed."""
    extra = {name: value for name, value in plan.request.extra.items() if name != KEY}  # its values are in the options
    request = replace(plan.request, out=None, extra=extra)
    files = [Path(file) for item in request.forget for file in item.images]
    pictures = [file_hash(file) for file in files if file.is_file()]  # a name alone does not say what they show
    told = [request.to_dict(), dict(plan.options), plan.modules, *pictures]
    text = json.dumps(told, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def build_manifest(
    entry: Registered, plan: EditPlan, target: Any, edit: Any, result: RunResult, seconds: float, ctx: RunContext
) -> Any:
    """Manifest of a finished run."""
    from erase_plugins.artifacts.manifest import Manifest, describe_base, package_versions, slug
    from erase_plugins.families.source import resolved_revision

    request = plan.request
    name = slug("erase_" + "_".join(item.name for item in request.forget[:3]))
    return Manifest(
        name=name,
        method={
            "id": entry.item.id,
            "title": entry.item.title,
            "paper": entry.item.paper,
            "package": entry.package,
            "version": entry.version,
        },
        concepts=tuple(map(_public, request.forget)),
        preserve=request.preserve,
        retain_data=tuple(item.public() for item in request.retain_data),
        certificate=result.certificate,
        guards=result.guards,
        records=result.records,
        options=public_options(entry.item.Options, plan.options),
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
            **ctx.facts,
            "numbers": {name: round(value, 6) for name, value in sorted(ctx.numbers.items())},
            **({KEY: request.extra[KEY]} if KEY in request.extra else {}),
        },
    )


def check_items(request: EraseRequest, method: Any, methods: Sequence[Any]) -> None:
    """Refuses what a method does not read: data, labels, and kinds that it does not name.

    Args:
        request: what is asked.
        method: its method; ``reads_data = True`` says that it reads data and labels.
        methods: all registered methods, to name those that could.

    Raises:
        Unsupported: names the item, and the methods that take it.
    """
    for item in request.forget:
        if item.kind not in method.kinds | _PICTURED:
            able = ", ".join(other.id for other in methods if item.kind in other.kinds)
            if not able:
                close = get_close_matches(item.kind, {kind for other in methods for kind in other.kinds}, n=1)
                able = f"none; did you mean '{close[0]}'?" if close else "none"
            raise Unsupported(
                f"{method.id} forgets {', '.join(sorted(method.kinds))}, not {item.kind} ('{item.name}'); methods for "
                f"{item.kind}: {able}"
            )
    if getattr(method, "reads_data", False):
        return
    data = [item for item in request.forget if item.data is not None or item.label is not None]
    what = [f"label {item.label!r}" if item.data is None else f"'{item.data.name}'" for item in data]
    what += [f"'{item.name}'" for item in request.retain_data]
    if what:
        able = ", ".join(other.id for other in methods if getattr(other, "reads_data", False)) or "none"
        raise Unsupported(
            f"{method.id} reads no data; leave out {what[0]} and name what to forget and to keep as text (",
            Hint("erase", "TEXT"),
            ", ",
            Hint("keep", "TEXT"),
            f"); methods that read data: {able}",
        )


def checked(method: Any, result: Any, family: str) -> tuple[Edit, RunResult]:
    """The edit that a method handed back, empty where it changes no weights, and all of it as a `RunResult`.

    Raises:
        PluginError: it is no edit, nothing at all, or holds what the method does not declare or JSON does not have.
    """
    found = result if isinstance(result, RunResult) else RunResult(result)
    beside = found.certificate is not None or found.guards or found.records
    if not isinstance(found.edit, Edit) and not (found.edit is None and beside):
        raise PluginError(f"method {method.id} returned {type(found.edit).__name__} instead of an Edit")
    edit = found.edit if found.edit is not None else Edit(family, {})
    undeclared = edit.kinds - method.produces
    if undeclared:
        raise PluginError(f"method {method.id} made {', '.join(sorted(undeclared))} changes that it does not declare")
    if not isinstance(found.certificate, Certificate | None):
        raise PluginError(f"method {method.id} returned a certificate that is {type(found.certificate).__name__}")
    guards, records = (_json(method, name, getattr(found, name)) for name in ("guards", "records"))
    return edit, replace(found, guards=guards, records=records)


def _json(method: Any, name: str, items: Any) -> tuple[dict[str, Any], ...]:
    """The items as JSON gives them back."""
    try:
        plain = json.loads(json.dumps(list(items), allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise PluginError(f"method {method.id} returned {name} that JSON cannot hold: {error}") from error
    if not all(isinstance(item, dict) for item in plain):
        raise PluginError(f"method {method.id} returned {name} that are not all mappings")
    return tuple(plain)
