"""One run on several processes: every process takes its share of each batch, gradients are averaged.

Started by ``torchrun`` or ``accelerate launch``; without one of them there is one process and nothing is imported.
The result equals that of one process with the same global batch, up to the order of floating point sums. Only the main
process writes files.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from torch import Tensor

from erase_plugins.errors import RequestError


@lru_cache(maxsize=1)
def _state() -> Any:
    """Accelerate's view of the processes; None when there is one only."""
    if int(os.getenv("WORLD_SIZE", "1")) < 2:
        return None
    from accelerate import PartialState
    from torch import cuda

    return PartialState(cpu=not cuda.is_available())


def processes() -> int:
    """Number of processes that share this run."""
    state = _state()
    return 1 if state is None else int(state.num_processes)


def is_main() -> bool:
    """Whether this process writes files and talks to the user."""
    state = _state()
    return state is None or bool(state.is_main_process)


def wait() -> None:
    """Returns when all processes are here."""
    state = _state()
    if state is not None:
        state.wait_for_everyone()


def share(rows: int) -> slice:
    """The rows of a batch that are this process's.

    Raises:
        RequestError: fewer rows than processes.
    """
    state = _state()
    if state is None:
        return slice(None)
    if rows < state.num_processes:
        raise RequestError(
            f"a batch of {rows} cannot be shared by {state.num_processes} processes; raise batch or start fewer"
        )
    return slice(int(state.process_index), None, int(state.num_processes))


def average(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Mean of each tensor over the processes."""
    if _state() is None:
        return list(tensors)
    from accelerate.utils import reduce

    return [reduce(tensor.detach().clone(), "mean") for tensor in tensors]
