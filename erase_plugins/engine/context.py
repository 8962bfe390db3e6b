"""What a running method is given besides its plan and target: randomness, progress, checkpoints, cancel."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from erase_plugins.engine.checkpoint import Checkpoint, remember
from erase_plugins.engine.distributed import is_main
from erase_plugins.errors import NotFiniteError, RunCancelled
from erase_plugins.hints import Hint
from erase_plugins.types import Event

Listener = Callable[[Event], None]


@dataclass
class RunContext:
    """Services for one run.

    Attributes:
        method: id of the running method.
        seed: the request's seed.
        device, dtype: where and in what the method computes.
        work: folder for checkpoints, None to go without.
        listeners: called with every event.
        cancel: set to stop at the next step.
        numbers: counters for the manifest.
        warnings: for the user and the manifest (see `warn`).
        facts: what else the manifest's ``extra`` shall say, JSON-ready.
        asked: what the user asked for, kept beside a checkpoint (see `engine.checkpoint`).
        base: tells the base model; what was kept for another one is not gone on from.
        precision: "bfloat16" runs the denoiser under autocast (see `engine.trajectories.ask`).
    """

    method: str
    seed: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32
    work: Path | None = None
    resume: bool = False
    listeners: tuple[Listener, ...] = ()
    cancel: threading.Event = field(default_factory=threading.Event)
    numbers: dict[str, float] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    precision: str = "float32"
    warnings: list[str] = field(default_factory=list)
    asked: Mapping[str, Any] = field(default_factory=dict)
    base: str = ""
    #: (edit, concept, attributes) -> share of pictures that show each attribute; None where no judge knows them
    shares: Callable[[Any, str, list[str]], list[float]] | None = None
    #: (edit, pictures) -> share of drawn pictures in which a judge sees the concepts; None where nobody looks
    target_rate: Callable[[Any, int], float] | None = None

    def generator(self, name: str = "") -> torch.Generator:
        """Seeded CPU generator; one per purpose, so that adding a draw elsewhere changes nothing here."""
        import hashlib

        digest = hashlib.sha256(f"{self.seed}:{name}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))

    def start(self, total: int, message: str = "") -> None:
        """Announces the number of steps."""
        self._emit("start", 0, total, message)

    def step(self, done: int, total: int, **numbers: float) -> None:
        """Reports progress and stops where asked.

        Raises:
            RunCancelled: the run was cancelled.
            NotFiniteError: a reported number is NaN or infinite.
        """
        for name, value in numbers.items():
            if value != value or abs(value) == float("inf"):
                raise NotFiniteError(f"{name} became {value} at step {done} of {total}; lower lr or use dtype float32")
        self._emit("step", done, total, "", numbers)
        if self.cancel.is_set():
            raise RunCancelled(
                f"cancelled at step {done} of {total}; ",
                Hint("resume", before="run the same command with"),
                " to go on",
            )

    def note(self, message: str) -> None:
        """Tells the user something that is not progress."""
        self._emit("note", 0, 0, message)

    def warn(self, message: str) -> None:
        """Tells the user why the result may not be what was meant; stays in the manifest."""
        self.warnings.append(message)
        self.note(f"warning: {message}")

    def count(self, name: str, amount: float = 1) -> None:
        """Adds to a counter that ends up in the manifest (forward passes, solves)."""
        self.numbers[name] = self.numbers.get(name, 0) + amount

    def checkpoint(self, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any], key: str) -> None:
        """Saves the run so that it can go on from ``step``; atomic. ``key`` identifies plan and code."""
        if self.work is not None and is_main():
            self._remember()
            Checkpoint(self.work).save(step, tensors, {**state, "numbers": dict(self.numbers)}, self._key(key))
            self._emit("checkpoint", step, 0, "")

    def stash(self, name: str, key: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """What ``make`` returns; a resumed run with the same key reads it from the work folder instead."""
        if self.work is None:
            return make()
        store = Checkpoint(self.work, f"{name}.safetensors")
        found = store.load(self._key(key)) if self.resume else None
        if found is not None:
            self.numbers.update(found[2].get("numbers", {}))
            return found[1]
        tensors = make()
        if is_main():
            self._remember()
            store.save(0, tensors, {"numbers": dict(self.numbers)}, self._key(key))
        return tensors

    def resumed(self, key: str) -> tuple[int, dict[str, Tensor], dict[str, Any]] | None:
        """(step, tensors, state) of the last checkpoint with the same key, if resuming was asked for."""
        if self.work is None or not self.resume:
            return None
        store = Checkpoint(self.work)
        found = store.load(self._key(key))
        if found is not None:
            self.numbers.update(found[2].get("numbers", {}))
            self.note(f"resume: step {found[0]}")
        elif store.path.is_file():
            self.note("the checkpoint found here is damaged, of another run or of another base; starting anew")
        return found

    def _key(self, key: str) -> str:
        return f"{key} {self.base}" if self.base else key

    def _remember(self) -> None:
        if self.work is not None and self.asked:
            remember(self.work, self.asked)

    def _emit(self, kind: str, done: int, total: int, message: str, numbers: Mapping[str, float] | None = None) -> None:
        event = Event(kind=kind, method=self.method, done=done, total=total, message=message, numbers=numbers or {})
        for listener in self.listeners:
            listener(event)


@contextmanager
def cancel_on_interrupt(cancel: threading.Event) -> Iterator[None]:
    """Ctrl-C asks the run to stop at the next step; a second Ctrl-C stops at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handler(number: int, frame: Any) -> None:
        if cancel.is_set():
            signal.default_int_handler(number, frame)
        cancel.set()

    before = signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
