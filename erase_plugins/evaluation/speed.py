"""The suite ``speed``: seconds per picture with the edit off and on, and on CUDA the memory that drawing takes.

Pictures are drawn one by one, with the same seeds in every state: without the edit (``base``), with it at strength 0
(``strength0``: what then stays in the model may still take time) and with it (``edited``). Half of them are drawn state
by state, the others with the states in the opposite order, so that a machine that gets slower or faster tells no state
from the others.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from erase_plugins.hookspecs import hookimpl
from erase_plugins.options import option
from erase_plugins.plain_text import an
from erase_plugins.types import EvalReport, EvalRow

if TYPE_CHECKING:
    import torch

    from erase_plugins.evaluation.context import SuiteContext
    from erase_plugins.evaluation.run import Subject

#: pictures in a state before the first that is timed: they pay for what is made once, such as kernels and memory
WARM_UPS = 2
#: subject of the rows -> state of the model, and strength of the edit
STATES: dict[str, tuple[str, float | None]] = {"base": ("off", None), "strength0": ("on", 0.0), "edited": ("on", None)}
_MIB = 2**20


@dataclass(frozen=True)
class Options:
    """Options of the suite."""

    pictures: int = option(10, "pictures that are timed in each state, after some that are not", low=10)


class SpeedSuite:
    """See the module."""

    id = "speed"
    title = "Seconds per picture with the edit off and on; on CUDA also peak memory"
    needs: frozenset[str] = frozenset({"denoiser", "text"})
    packages: frozenset[str] = frozenset()
    needs_judge = False
    Options = Options

    def run(self, subject: Subject, ctx: SuiteContext) -> EvalReport:
        """See the module."""
        from erase_plugins.evaluation.bootstrap import median_interval
        from erase_plugins.evaluation.draw import sampler_facts

        prompt, device = asked(subject), getattr(subject.pipe, "_execution_device", subject.target.device)
        seeds = [subject.seed + number for number in range(ctx.options["pictures"])]
        seconds: dict[str, list[float]] = {name: [] for name in STATES}
        peaks: dict[str, list[float]] = {name: [] for name in STATES}
        half = len(seeds) // 2
        turns = [*((name, seeds[:half]) for name in STATES), *((name, seeds[half:]) for name in reversed(STATES))]

        def draw(seed: int) -> None:
            subject.draw([prompt], [seed])
            subject.queries += 1
            _wait(device)

        for number, (name, part) in enumerate(turns):
            ctx.progress(name, number, len(turns))
            with subject.under(*STATES[name]):
                _forget_peak(device)
                seconds[name] += timed(draw, part)
                peaks[name] += _peak(device)
        rows = []
        for name in STATES:
            value, low, high = (round(part, 6) for part in median_interval(seconds[name], subject.seed))
            rows.append(EvalRow("seconds_per_picture", name, value, low, high, len(seeds), "median, one at a time"))
            if peaks[name]:
                peak = max(peaks[name])
                rows.append(EvalRow("peak_memory_mib", name, peak, peak, peak, len(seeds), "the model's weights too"))
        return EvalReport(
            suite=self.id, model=subject.model, rows=tuple(rows),
            artifacts=tuple(item.name for item in subject.artifacts), erased=tuple(subject.erased),
            strength=subject.strength, seeds=(subject.seed,),
            details={
                "seconds": seconds, "prompts": {"timed": [prompt]}, "sampler": sampler_facts(subject),
                "device": str(device), "dtype": str(subject.target.dtype).removeprefix("torch."),
            },
        )  # fmt: skip


def asked(subject: Subject) -> str:
    """A prompt that names the concept, for which gates open; where a guard would refuse it, another one."""
    guarded = any(item.manifest.guards for item in subject.artifacts)
    return an(subject.erased[0]) if subject.erased and not guarded else "a picture"


def timed(
    draw: Callable[[int], Any], seeds: Sequence[int], clock: Callable[[], float] = time.perf_counter
) -> list[float]:
    """Seconds that ``draw`` takes for every seed, after `WARM_UPS` times with the first that are not counted.

    Args:
        draw: returns when its picture is there.
        seeds: one per picture.
        clock: seconds.
    """
    for _ in range(WARM_UPS):
        draw(seeds[0])
    found = []
    for seed in seeds:
        started = clock()
        draw(seed)
        found.append(clock() - started)
    return found


def _wait(device: torch.device) -> None:
    """Returns when the device has done what it was told; elsewhere the copy of a picture to the processor waits."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _forget_peak(device: torch.device) -> None:
    import torch

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def _peak(device: torch.device) -> list[float]:
    """MiB that tensors took at most since `_forget_peak`; nothing where the device does not say."""
    import torch

    return [round(torch.cuda.max_memory_allocated(device) / _MIB, 1)] if device.type == "cuda" else []


@hookimpl
def erase_suites() -> list[SpeedSuite]:
    return [SpeedSuite()]
