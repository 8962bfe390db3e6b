"""SLUG: one gradient, one layer, a search along a line (Cai, Tan and Asif, ICML 2025, arXiv 2407.11867).

With g_f and g_r the gradients of the mean cross-entropy on what is forgotten and on what is retained, once, on the
model as it is, every weight matrix has

    importance |g_f| / |W|,    alignment |cos(g_f, g_r)|.

One matrix gets W + lambda g_f. lambda starts at |W| / (10 |g_f|) and is doubled or halved between bounds, ``looks``
times, until as little as possible makes the model wrong on what is forgotten; the matrix with the best accuracy on what
is retained wins. The change is linear in its strength and names a single layer.

Differs from the official code (``CSIPlab/SLUG``):
    - every weight matrix is tried, or those that no other beats in both numbers (``candidates=front``): the front does
      not single out the best one;
    - averages of gradients are those of all pictures, and the retained gradient does not start from the forgotten one;
    - the sign is that of a rising loss, with one convention throughout;
    - layers are chosen on the pictures that are trained on, forgotten counts by the most likely label.

It is fast, and nobody has attacked it: do not take it for robust.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any, ClassVar

from erase_plugins.errors import RequestError
from erase_plugins.hookspecs import hookimpl
from erase_plugins.options import option
from erase_plugins.training import TrainingRun
from erase_plugins.training.baseline import Solved, SolvedOptions, flat_gradient

if TYPE_CHECKING:
    from torch import Tensor

    from erase_plugins.families.base import ModelSpec
    from erase_plugins.types import EditPlan, EraseRequest

#: |cos| above which a layer cannot forget without losing the rest
_SAME = 0.9


@dataclass(frozen=True)
class SLUGOptions(SolvedOptions):
    """Options of SLUG."""

    candidates: str = option("all", "weight matrices that are tried: all, or those that no other beats in both numbers",
                             choices=("all", "front"))  # fmt: skip
    looks: int = option(10, "measurements of a matrix", low=1, high=100)
    left: float = option(0.0, "accuracy on what is forgotten that counts as gone", low=0.0, high=1.0)


class SLUG(Solved):
    """Steps along a single gradient in a single layer."""

    id = "slug"
    title = "Single-layer unlearning gradient"
    paper = "https://arxiv.org/abs/2407.11867"
    summary = "one step along one gradient in the one layer where it costs least; no training"
    kinds = frozenset({"class", "object", "person"})
    Options = SLUGOptions
    contract_options: ClassVar[dict[str, Any]] = {"looks": 4, "left": 1.0}

    def plan(self, request: EraseRequest, info: ModelSpec) -> EditPlan:
        """The plan; the file holds one matrix, at most the largest."""
        plan = super().plan(request, info)
        return replace(plan, file_bytes=4 * max(prod(ref.shape) for ref in info.refs))

    def solve(self, run: TrainingRun) -> Mapping[str, Tensor]:
        import torch

        from erase_plugins.engine.loop import finite
        from erase_plugins.families.labelled import accuracy

        options, sets, values = run.options, run.state, run.adapters.values
        if accuracy(run.target, sets.forget) <= options.left < 1.0:
            raise RequestError("the model is already wrong on everything that is to be forgotten; nothing to do")
        sizes = [value.numel() for value in values.values()]
        forget, retain = (
            dict(zip(values, (flat_gradient(run, pool) / len(pool)).split(sizes), strict=True))
            for pool in (sets.forget, sets.retain)
        )
        if not finite(list(forget.values())):
            raise RequestError("the gradient is not finite; the model is broken")
        numbers = {
            name: facts(value.detach(), forget[name], retain[name])
            for name, value in values.items()
            if value.ndim >= 2 and bool(forget[name].any())
        }
        names = [name for name in (front(numbers) if options.candidates == "front" else numbers)
                 if numbers[name][0] <= _SAME]  # fmt: skip
        if not names:
            raise RequestError("in every layer forgetting runs along what is retained; SLUG cannot part them")
        best: tuple[float, float, str, Tensor] | None = None
        for name in names:
            start, way = values[name].detach().clone(), forget[name].reshape(values[name].shape)

            def left(step: float, name: str = name, start: Tensor = start, way: Tensor = way) -> float:
                values[name].data.copy_(start + step * way)
                with torch.no_grad():
                    return accuracy(run.target, sets.forget)

            step, gone = along(left, float(start.norm() / way.norm()) / 10, options.looks, options.left)
            first = -max(gone, options.left)
            if best is None or first >= best[0]:  # what is retained decides between layers, not between steps
                values[name].data.copy_(start + step * way)
                with torch.no_grad():
                    kept = accuracy(run.target, sets.retain)
                if best is None or (first, kept) > best[:2]:
                    best = (first, kept, name, start + step * way)
            values[name].data.copy_(start)
        assert best is not None
        run.ctx.note(f"{best[2]}: accuracy on what is retained {best[1]:.1%}, {len(names)} layers tried")
        return {best[2]: best[3]}


def facts(weight: Tensor, forget: Tensor, retain: Tensor) -> tuple[float, float]:
    """(alignment, importance) of a layer."""
    both = float(forget.norm() * retain.norm())
    return abs(float(forget @ retain)) / both if both else 0.0, float(forget.norm() / weight.norm().clamp_min(1e-12))


def front(numbers: Mapping[str, tuple[float, float]]) -> list[str]:
    """Layers than which no other has both less alignment and more importance."""
    return [
        name
        for name, (alignment, importance) in numbers.items()
        if not any(other[0] < alignment and other[1] > importance for other in numbers.values())
    ]


def along(looked: Callable[[float], float], step: float, looks: int, left: float) -> tuple[float, float]:
    """The smallest step found at which what is forgotten is gone, and the accuracy on it there.

    Args:
        looked: accuracy on what is forgotten at a step.
        step: the first.
        looks: how often it is asked.
        left: accuracy that counts as gone.

    Returns:
        Step and accuracy; of the largest step where it was never gone.
    """
    low, high = 0.0, None
    found: tuple[float, float] | None = None
    last = (0.0, 1.0)
    for _ in range(looks):
        last = (step, looked(step))
        if last[1] <= left:
            found, high = last, step
        else:
            low = step
        step = 2 * step if high is None else (low + high) / 2
    return last if found is None else found


@hookimpl
def erase_methods() -> list[SLUG]:
    return [SLUG()]
