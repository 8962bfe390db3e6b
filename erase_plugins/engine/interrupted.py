"""What an interrupted run had been asked, kept beside its checkpoint: going on with something else must be told."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from erase_plugins.artifacts.atomic import atomic_file
from erase_plugins.engine.checkpoint import RECORD
from erase_plugins.errors import RequestError
from erase_plugins.types import EditPlan

_LARGEST = 10_000_000


def asked(plan: EditPlan) -> dict[str, Any]:
    """Everything that decides the result of a plan, by the name under which a user gives it."""
    request = plan.request
    named = {
        "model": request.model, "revision": request.revision, "method": request.method, "seed": request.seed,
        "device": request.device, "dtype": request.dtype, "keep": sorted(request.preserve),
        "erase": sorted(item.name for item in request.forget),
        "kind": sorted({concept.kind for concept in request.concepts}),
        "to": sorted({str(concept.anchor) for concept in request.concepts}),
        "prompts": sorted(prompt for concept in request.concepts for prompt in concept.prompts),
    }  # fmt: skip
    data = sorted(item.name for item in (*(item.data for item in request.forget if item.data), *request.retain_data))
    return json.loads(json.dumps({**dict(plan.options), **named, **({"data": data} if data else {})}, default=str))


def remember(work: Path, facts: Mapping[str, Any]) -> None:
    """Writes what was asked beside the checkpoint."""
    with atomic_file(work / RECORD) as file:
        file.write_text(json.dumps(dict(facts), indent=2, sort_keys=True), encoding="utf-8")


def check_resume(work: Path, plan: EditPlan) -> None:
    """Refuses to go on from the checkpoint of a run that was asked something else.

    Args:
        work: folder of the checkpoint; nothing is checked if it holds none.
        plan: what is asked now.

    Raises:
        RequestError: names every difference, then and now.
    """
    before = _read(work / RECORD)
    if before is None:
        return
    now = asked(plan)
    told = [
        f"{name} {_short(before.get(name))} then, {_short(now.get(name))} now"
        for name in sorted({*before, *now})
        if before.get(name) != now.get(name)
    ]
    if told:
        raise RequestError(
            f"the interrupted run was asked something else: {'; '.join(told)}; repeat what it was given, or leave "
            "--resume out to start anew"
        )


def _read(file: Path) -> dict[str, Any] | None:
    try:
        if file.stat().st_size > _LARGEST:
            return None
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return data if isinstance(data, dict) else None


def _short(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    text = text or "nothing"
    return text if len(text) <= 60 else f"{text[:57]}..."
