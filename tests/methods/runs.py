"""A prepared run of a trained method, to look at its loss."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

import erase_plugins as ep
from erase_plugins.engine.context import RunContext
from erase_plugins.manager import get_manager
from erase_plugins.training import TrainedMethod, TrainingRun
from erase_plugins.types import EraseRequest


def begun(target: Any, request: EraseRequest, options: Any = None, ctx: RunContext | None = None) -> TrainingRun:
    """A run of the method of ``request`` before any work; with ``options`` in place of those of its plan."""
    method: TrainedMethod = get_manager().method(request.method)
    run = method.begin(method.plan(request, target.info), target, ctx or RunContext(method.id))
    return run if options is None else replace(run, options=options)


@contextmanager
def prepared(run: TrainingRun) -> Iterator[Any]:
    """Inside, the run is attached and prepared; the loss by step."""
    method: TrainedMethod = get_manager().method(run.request.method)
    with method.prepared(run):
        yield lambda step: method.loss(run, step)


def check_comes_off(pipe: Any, target: Any, artifact: Any, x: torch.Tensor) -> None:
    """An applied artifact changes the prediction for "a pizza" at latents ``x``; at strength 0 and removed it is gone."""
    cond, time = target.encode(["a pizza"]), torch.tensor([500])
    before = target.predict(x, time, cond)
    applied = ep.apply(pipe, artifact)
    assert not torch.equal(target.predict(x, time, cond), before)
    applied.set_strength(0.0)
    assert torch.equal(target.predict(x, time, cond), before)
    applied.remove()
    assert torch.equal(target.predict(x, time, cond), before)
