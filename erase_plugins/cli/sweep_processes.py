"""A sweep on several processes: each loads the model once and takes concept after concept."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from erase_plugins.cli.console import human_seconds, progress
from erase_plugins.errors import EraseError, RunCancelled
from erase_plugins.hints import in_terminal

#: seconds between two looks at what is finished
_PATIENCE = 0.2
_DIED = "its process died (out of memory?); the same command with fewer --jobs goes on"
#: the loaded model of a worker process, and what tells it to stop
_loaded: dict[str, Any] = {}


class Stop:
    """Asks runs of several processes to stop at the next step. Without a lock, which a process that dies would keep."""

    def __init__(self, flag: Any) -> None:
        self.flag = flag

    def set(self) -> None:
        """Asks."""
        self.flag.value = 1

    def is_set(self) -> bool:
        """Whether somebody asked."""
        return bool(self.flag.value)


def in_processes(
    jobs: int, base: tuple[Any, ...], plans: Mapping[str, Any], places: Mapping[str, Path], layouts: Sequence[str]
) -> dict[str, str]:
    """Runs every plan; returns concept -> reason for those that failed.

    Args:
        jobs: processes.
        base: model, revision, dtype and device, for each process to load.
        plans, places: by concept.
        layouts: as for `erase_plugins.erase`.

    Raises:
        RunCancelled: Ctrl-C; what is finished stays, and what is not goes on from its last checkpoint.
    """
    from concurrent.futures import ProcessPoolExecutor, wait
    from concurrent.futures.process import BrokenProcessPool
    from multiprocessing import get_context

    from erase_plugins.engine.context import cancel_on_interrupt

    failed: dict[str, str] = {}
    cancel = threading.Event()
    started = time.perf_counter()
    context = get_context("spawn")
    stop = Stop(context.RawValue("b", 0))
    pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=_prepare, initargs=(stop, *base))
    try:
        with cancel_on_interrupt(cancel), progress() as bar:
            work = {pool.submit(_one, plan, places[name], tuple(layouts)): name for name, plan in plans.items()}
            pending = set(work)
            while pending:
                ended, pending = wait(pending, timeout=_PATIENCE)
                if cancel.is_set():
                    raise RunCancelled(f"stopped with {len(pending)} to do; the same command goes on")
                for future in ended:
                    try:
                        reason = future.result()
                    except BrokenProcessPool:
                        reason = _DIED
                    if reason:
                        failed[work[future]] = f"{work[future]}: {reason}"
                if ended:
                    done = len(plans) - len(pending)
                    left = (time.perf_counter() - started) / done * len(pending)
                    bar.update(f"{work[next(iter(ended))]} ({human_seconds(left)} left)", done, len(plans))
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)
    return failed


def _prepare(stop: Stop, model: str, revision: str | None, dtype: str, device: str) -> None:
    """Loads the model of a process; they share the cores, so each has one thread. Ctrl-C is the first process's."""
    import signal

    import torch

    from erase_plugins.cli.command import load_target

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    _loaded["stop"], _loaded["target"] = stop, load_target(model, revision=revision, dtype=dtype, device=device)


def _one(plan: Any, place: Path, layouts: tuple[str, ...]) -> str:
    """Erases one concept; the reason if that failed. Errors are told as text, since not all can be sent."""
    from erase_plugins.api import run_and_save

    try:
        run_and_save(
            plan, _loaded["target"], place, layouts=layouts, force=True, resume=True, cancel=_loaded["stop"]
        )  # fmt: skip
    except EraseError as error:
        return in_terminal(error)
    return ""
