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
#: the loaded model of a worker process
_loaded: dict[str, Any] = {}


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
        RunCancelled: Ctrl-C; what is finished stays.
    """
    from concurrent.futures import ProcessPoolExecutor, wait
    from concurrent.futures.process import BrokenProcessPool
    from multiprocessing import get_context

    from erase_plugins.engine.context import cancel_on_interrupt

    failed: dict[str, str] = {}
    cancel = threading.Event()
    started = time.perf_counter()
    pool = ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_prepare, initargs=base)
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
        pool.shutdown(wait=True, cancel_futures=True)
    return failed


def _prepare(model: str, revision: str | None, dtype: str, device: str) -> None:
    """Loads the model of a process; they share the cores, so each has one thread. Ctrl-C is the first process's."""
    import signal

    import torch

    from erase_plugins.cli.command import load_target

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    _loaded["target"] = load_target(model, revision=revision, dtype=dtype, device=device)


def _one(plan: Any, place: Path, layouts: tuple[str, ...]) -> str:
    """Erases one concept; the reason if that failed. Errors are told as text, since not all can be sent."""
    from erase_plugins.api import run_and_save

    try:
        run_and_save(plan, _loaded["target"], place, layouts=layouts, force=True, resume=True)
    except EraseError as error:
        return in_terminal(error)
    return ""
