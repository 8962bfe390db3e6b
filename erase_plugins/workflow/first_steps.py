"""Seconds and memory of a method's first steps on a model, bounded; nothing of the result is kept."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Mapping
from typing import Any

import torch

from erase_plugins.errors import EraseError, RunCancelled
from erase_plugins.hints import stored
from erase_plugins.plain_text import one_line, scrub
from erase_plugins.types import Concept, EraseRequest, Event
from erase_plugins.workflow.applying import apply
from erase_plugins.workflow.run import make_plan, run_plan

_CONCEPT = "dog"
#: options that bound how long a run is, and say nothing about what one of its steps takes
_BOUNDS = {
    "iterations": 3, "trajectories": 2, "harvest": 2, "steps": 4, "pictures": 2, "draw": 2, "warmup": 1,
    "attack_steps": 2, "keep_words": 16, "prior_words": 8, "search_iterations": 2, "inversion_steps": 2,
    "adversarial_rounds": 0,
}  # fmt: skip


class _Clock:
    """When the steps of a run were done."""

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self.done: dict[int, float] = {}

    def __call__(self, event: Event) -> None:
        if event.kind == "step" and event.done:
            self.done.setdefault(event.done, time.perf_counter() - self.start)

    def facts(self) -> dict[str, Any]:
        """Seconds in all, until the first step was done, and of a step after it (None: there was none)."""
        times = [self.done[number] for number in sorted(self.done)]
        return {
            "seconds": round(time.perf_counter() - self.start, 3),
            "first_step_after": round(times[0], 3) if times else None,
            "seconds_per_step": round((times[-1] - times[0]) / (len(times) - 1), 4) if len(times) > 1 else None,
        }


def bounded(method: Any, quick: bool) -> dict[str, Any]:
    """Options for a short run: with ``quick`` those of the method's contract tests, else a step takes what it takes."""
    known = getattr(method.Options, "__dataclass_fields__", {})
    options: Mapping[str, Any] = getattr(method, "contract_options", {}) if quick else _BOUNDS
    return {name: value for name, value in options.items() if name in known}


def first_steps(target: Any, method: Any, quick: bool, limit: float) -> dict[str, Any]:
    """One bounded run; JSON-ready. A run that fails or takes longer than ``limit`` seconds says so in ``stopped``.

    ``memory_bytes`` is the most that tensors took beyond the model (CUDA), or by how much the process grew; None where
    this cannot be seen. ``empty_prompt`` is how much the prediction for the empty prompt changes, relative to it; only
    of methods without training steps, whose result is final.
    """
    clock, cancel = _Clock(), threading.Event()
    options = bounded(method, quick)
    request = EraseRequest(target.info.model, (Concept(_CONCEPT),), method.id, options=options)
    timer = threading.Timer(limit, cancel.set)
    timer.daemon = True
    found: dict[str, Any] = {"options": options}
    memory = _Memory(target.device)
    artifact = None
    try:
        plan = make_plan(request, target.info)
        found["planned"] = {"seconds": plan.seconds, "memory_bytes": plan.memory_bytes}
        timer.start()
        artifact = run_plan(plan, target, listeners=(clock,), cancel=cancel)
    except RunCancelled:
        found["stopped"] = f"after {limit:g} s"
    except (EraseError, torch.OutOfMemoryError) as error:
        found["stopped"] = scrub(one_line(f"{type(error).__name__}: {stored(error)}"))[:200]
    finally:
        timer.cancel()
    found |= clock.facts()
    found["memory_bytes"] = memory.peak()
    if artifact is not None and "iterations" not in getattr(method.Options, "__dataclass_fields__", {}):
        found["empty_prompt"] = _drift(target, artifact)
    return found


def _drift(target: Any, artifact: Any) -> float:
    """Relative change of the prediction for the empty prompt, in the middle of the schedule."""
    noise = torch.randn((1, *target.info.latent_shape), generator=torch.Generator().manual_seed(0))
    noise = noise.to(target.device, target.dtype)
    cond = target.encode([""])
    with torch.no_grad():
        before = target.predict(noise, 500, cond).float()
        handle = apply(target, artifact)
        try:
            after = target.predict(noise, 500, cond).float()
        finally:
            handle.remove()
    return round(float((after - before).norm() / before.norm().clamp_min(1e-12)), 6)


class _Memory:
    """The most memory since it was made."""

    def __init__(self, device: torch.device) -> None:
        gc.collect()
        self.device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self.before = torch.cuda.memory_allocated(device)
        else:
            self.before = _largest()

    def peak(self) -> int | None:
        """Bytes beyond what there was; None if unknown."""
        if self.device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self.device) - self.before)
        return _largest() - self.before if self.before else None


def _largest() -> int:
    """The most bytes that this process ever had; 0 where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    import sys

    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * (1 if sys.platform == "darwin" else 1024)
