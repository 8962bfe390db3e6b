"""Checkpoints of a training run: one safetensors file, replaced atomically; damaged or foreign ones are ignored.

What the run had been asked stands beside it: going on with something else must be told.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import Tensor

from erase_plugins.artifacts.atomic import atomic_file
from erase_plugins.artifacts.header import read_header
from erase_plugins.errors import CorruptArtifact, RequestError
from erase_plugins.hints import Hint
from erase_plugins.types import EditPlan

FILE = "checkpoint.safetensors"
#: what the run had been asked
RECORD = "checkpoint.json"
_LARGEST = 10_000_000


class Checkpoint:
    """The checkpoint in a work folder."""

    def __init__(self, work: Path, name: str = FILE) -> None:
        self.path = work / name

    def save(self, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any], key: str) -> None:
        """Replaces the checkpoint."""
        from safetensors.torch import save_file

        header = {"step": str(step), "key": key, "state": json.dumps(dict(state), sort_keys=True)}
        flat = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        with atomic_file(self.path) as work:
            save_file(flat, work, metadata=header)

    def load(self, key: str) -> tuple[int, dict[str, Tensor], dict[str, Any]] | None:
        """(step, tensors, state), or None if there is none for this key."""
        from safetensors.torch import load_file

        if not self.path.is_file():
            return None
        try:
            header = read_header(self.path)
            if header.metadata.get("key") != key:
                return None
            return int(header.metadata["step"]), load_file(self.path), json.loads(header.metadata["state"])
        except (CorruptArtifact, KeyError, ValueError):
            return None


def clear(work: Path) -> None:
    """Removes the checkpoints in a work folder, and the folder if nothing else is in it."""
    for path in (*work.glob("*.safetensors"), work / RECORD):
        path.unlink(missing_ok=True)
    with suppress(OSError):
        work.rmdir()


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
    data = sorted(item.name for item in request.data)
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
    if before is not None and (told := differences(before, asked(plan))):
        raise RequestError(
            f"the interrupted run was asked something else: {told}; repeat what it was given, or ",
            Hint("resume", before="leave", after="out"),
            " to start anew",
        )


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What was asked otherwise, then and now; "" if nothing was."""
    return "; ".join(
        f"{name} {_short(before.get(name))} then, {_short(now.get(name))} now"
        for name in sorted({*before, *now})
        if before.get(name) != now.get(name)
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
