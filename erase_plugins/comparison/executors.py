"""Where cells are worked off: in this process, in several, or on a Ray cluster. The work itself is the same function.

Cells of one concept stay together: they share the base's pictures, which are drawn once.
"""

from __future__ import annotations

import signal
import tempfile
import threading
from collections.abc import Callable, Iterable, Sequence
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any

from erase_plugins.comparison.cells import Cell, finished, read_result, run_cell, write_result
from erase_plugins.errors import EraseError, MissingExtra, RequestError, RunCancelled
from erase_plugins.hints import stored

Group = Sequence[Cell]
#: called with the number of finished cells
Progress = Callable[[int], None]
#: sets up a process (a function at the top of a module, so that it can be sent to others)
Prepare = Callable[[], None]
#: a group whose process died this often is given up
_ATTEMPTS = 2
#: seconds between two looks at what is finished
_PATIENCE = 0.5


def work(
    group: Group, folder: str, prepare: Prepare | None = None, after: Prepare | None = None
) -> dict[str, dict[str, bytes]]:
    """Does the cells of a group one after the other; what fails is written down and does not stop the others.

    Args:
        group: cells with one base.
        folder: of the comparison, with one folder per cell.
        prepare: called first, in the process that does the work.
        after: called after every cell.

    Returns:
        Cell -> file name -> content, where the folder cannot be reached from this machine; empty otherwise.
    """
    if prepare is not None:
        prepare()
    from erase_plugins.workflow.models import load_pipeline  # what it is after the preparation

    shared = Path(folder).is_dir()
    with tempfile.TemporaryDirectory(prefix="erase-plugins-cells-") as scratch:
        root = Path(folder) if shared else Path(scratch)
        pipe = None
        for cell in group:
            place = root / cell.key
            if finished(place):
                continue
            try:
                if pipe is None:
                    model, revision, dtype, device = cell.base
                    pipe = load_pipeline(model, revision=revision, dtype=dtype, device=device)
                result = run_cell(cell, pipe, place)
            except RunCancelled:
                raise
            except Exception as error:  # a broken plugin costs its own cell
                kind = "" if isinstance(error, EraseError) else f"{type(error).__name__}: "
                result = failure(cell, f"{kind}{stored(error)}")
            write_result(place, result)
            if after is not None:
                after()
        if shared:
            return {}
        return {
            cell.key: {
                str(file.relative_to(root / cell.key)): file.read_bytes()
                for file in (root / cell.key).rglob("*")
                if file.is_file()
            }
            for cell in group
        }


def failure(cell: Cell, reason: str) -> dict[str, Any]:
    """Result of a cell that did not work."""
    return {"schema": 1, "status": "failed", "label": cell.label, "cell": cell.to_dict(), "error": reason}


def run_here(groups: Iterable[Group], folder: Path, progress: Progress, prepare: Prepare | None = None) -> None:
    """In this process; stops between steps where the user interrupts."""
    done = 0

    def next_one() -> None:
        nonlocal done
        done += 1
        progress(done)

    for group in groups:
        work(group, str(folder), prepare, next_one)


def run_processes(
    groups: Sequence[Group], folder: Path, progress: Progress, prepare: Prepare | None = None, *, jobs: int
) -> None:
    """Up to ``jobs`` groups at a time, each in a process of its own: one that is killed costs no other group."""
    from concurrent.futures import ThreadPoolExecutor, wait

    todo = [group for group in groups if not all(finished_or_failed(cell, folder) for cell in group)]
    stopped, others = threading.Event(), set(active_children())
    pool = ThreadPoolExecutor(max(min(jobs, len(todo)), 1))
    try:
        pending = {pool.submit(_in_own_process, group, folder, prepare, stopped) for group in todo}
        while pending:
            ended, pending = wait(pending, timeout=_PATIENCE)
            progress(sum(finished_or_failed(cell, folder) for group in groups for cell in group))
            for future in ended:
                future.result()
    except BaseException:  # Ctrl-C above all: nobody waits for the cells that are being made, nor are they failed ones
        stopped.set()
        for child in set(active_children()) - others:
            child.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _in_own_process(group: Group, folder: Path, prepare: Prepare | None, stopped: threading.Event) -> None:
    """Works a group off in a new process; one that dies is started once more, then the group counts as failed.

    Ctrl-C at a terminal reaches every process there; it is for the first one, which ends those of here.
    """
    if hasattr(signal, "pthread_sigmask"):  # what a thread does not listen to, neither does a process that it starts
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool

    for _ in range(_ATTEMPTS):
        with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_one_thread) as alone:
            try:
                alone.submit(work, group, str(folder), prepare).result()
                return
            except BrokenProcessPool:
                if stopped.is_set():
                    return
    for cell in group:
        if not finished_or_failed(cell, folder):
            text = "its process died twice (out of memory?); run again with one job or a smaller batch"
            write_result(folder / cell.key, failure(cell, text))


def run_ray(
    groups: Sequence[Group], folder: Path, progress: Progress, prepare: Prepare | None = None, *, address: str
) -> None:
    """On a Ray cluster; lost workers are retried by Ray.

    Args:
        groups, folder, progress, prepare: as for the others; the folder need not be visible to the cluster.
        address: of the cluster; "local" starts one on this machine.

    Raises:
        MissingExtra: ray is not installed.
        RequestError: no cluster answers there.
    """
    try:
        import ray
    except ImportError as error:
        raise MissingExtra("running on a Ray cluster", "ray") from error
    try:
        ray.init(address=address, log_to_driver=False, include_dashboard=False if address == "local" else None)
    except (ConnectionError, ValueError) as error:
        raise RequestError(f"no Ray cluster answers at {address}; start one with 'ray start --head'") from error
    try:
        task: Any = ray.remote(max_retries=_ATTEMPTS)(work)
        waiting = {task.remote(list(group), str(folder), prepare): group for group in groups}
        done = 0
        while waiting:
            ready, _ = ray.wait(list(waiting), num_returns=1)
            group = waiting.pop(ready[0])
            try:
                keep_files(ray.get(ready[0]), folder)
            except ray.exceptions.RayError as error:
                # what was raised over there ends the text of its traceback; a lost worker is told in the first line
                last = -1 if isinstance(error, ray.exceptions.RayTaskError) else 0
                reason = str(error).strip().splitlines()[last]
                for cell in group:
                    if not finished_or_failed(cell, folder):
                        write_result(folder / cell.key, failure(cell, f"the cluster lost it: {reason}"))
            done += len(group)
            progress(done)
    finally:
        ray.shutdown()


def keep_files(files: dict[str, dict[str, bytes]], folder: Path) -> None:
    """Writes what a machine without access to the folder sent back; the result of a cell comes last."""
    from erase_plugins.comparison.cells import RESULT

    for key, contents in files.items():
        for name in sorted(contents, key=lambda name: name == RESULT):
            place = folder / key / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(contents[name])


def finished_or_failed(cell: Cell, folder: Path) -> bool:
    """Whether this run has dealt with the cell; failures of earlier runs are cleared away before it starts."""
    return read_result(folder / cell.key) is not None


def _one_thread() -> None:
    """Worker processes share the cores; more threads each would only slow them down."""
    import torch

    torch.set_num_threads(1)
