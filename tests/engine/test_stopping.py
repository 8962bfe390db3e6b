"""Early stop by a judge: at a look, with what would be saved, the same after a resume, for every trained method."""

from __future__ import annotations

import threading
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch

from erase_plugins.api import build_request
from erase_plugins.engine.adapters import Adapters
from erase_plugins.engine.context import RunContext
from erase_plugins.engine.loop import Schedule, train
from erase_plugins.engine.stopping import Stop
from erase_plugins.errors import RunCancelled
from erase_plugins.manager import get_manager
from erase_plugins.training.options import LoopOptions
from erase_plugins.workflow.models import target_of
from erase_plugins.workflow.run import make_plan, run_plan

TRAINED = [entry.item.id for entry in get_manager().methods() if issubclass(entry.item.Options, LoopOptions)]


@pytest.fixture
def target(tiny_sd1):
    return target_of(tiny_sd1(), "tiny")


def run(target, rate, schedule=None, ctx=None, **given):
    """Losses, looks (what the judge was shown) and the end's values; ``rate`` maps the number of a look to a share."""
    adapters = Adapters(target, target.modules("cross_k"), 2, generator=torch.Generator().manual_seed(0))
    cond, looks = target.encode(["pizza"]), []

    def look(edit, pictures):
        assert pictures == 6
        assert not adapters.enabled  # or the change would be there twice
        looks.append(edit)
        return rate(len(looks))

    def loss(step):
        x = torch.randn((1, *target.info.latent_shape), generator=torch.Generator().manual_seed(step))
        return (target.predict(x, 400, cond) - 1.0).square().mean()

    ctx = ctx or RunContext("t")
    ctx.target_rate = look
    with adapters, given.get("expects") or nullcontext():
        losses = train(ctx, adapters, loss, schedule or Schedule(9, 1e-2, stop=Stop(0.1, 2, 6)), "key")
        return losses, looks, adapters.edit()
    return None, looks, None


def equal(one, two):
    pairs = zip(one.items(), two.items(), strict=True)
    return all(a[:2] == b[:2] and all(torch.equal(part, b[2].tensors()[name]) for name, part in a[2].tensors().items())
               for a, b in pairs)  # fmt: skip


def test_it_ends_at_the_first_look_that_is_low_enough(target):
    losses, looks, edit = run(target, lambda number: 0.5 if number < 3 else 0.1)
    assert (len(losses), len(looks)) == (6, 3)
    assert equal(looks[-1], edit)
    assert not equal(looks[0], edit)
    losses, looks, _ = run(target, lambda number: 0.11)
    assert (len(losses), len(looks)) == (9, 4)


def test_what_is_shown_is_the_average_where_that_is_saved(target):
    losses, looks, edit = run(target, lambda number: 1.0 - 0.5 * number, Schedule(9, 1e-2, ema=0.5, stop=Stop(0, 2, 6)))
    assert len(losses) == 4
    assert equal(looks[-1], edit)
    assert not equal(edit, run(target, lambda number: 1.0, Schedule(4, 1e-2, stop=Stop(0, 2, 6)))[2])


def test_without_a_judge_training_runs_its_course(target):
    adapters = Adapters(target, target.modules("cross_k"), 2)
    cond, x = target.encode(["pizza"]), torch.zeros((1, *target.info.latent_shape))
    with adapters:
        losses = train(RunContext("t"), adapters, lambda step: target.predict(x, 400, cond).square().mean(),
                       Schedule(3, 1e-2, stop=Stop(1.0, 1, 6)), "key")  # fmt: skip
    assert len(losses) == 3


@pytest.mark.parametrize("cut", [3, 4])
def test_resumed_equals_uninterrupted(target, tmp_path, cut):
    """Cut between two looks, and exactly before the look that ends it."""
    schedule = Schedule(9, 1e-2, ema=0.5, every=100, stop=Stop(0.5, 4, 6))
    whole = run(target, lambda number: 0.0, schedule)
    cancel = threading.Event()
    ctx = RunContext("t", work=tmp_path, cancel=cancel, listeners=(lambda event: event.done == cut and cancel.set(),))
    _, looks, _ = run(target, lambda number: 0.0, schedule, ctx, expects=pytest.raises(RunCancelled))
    assert looks == []
    ctx = RunContext("t", work=tmp_path, resume=True)
    losses, looks, edit = run(target, lambda number: 0.0, schedule, ctx)
    assert losses == whole[0]
    assert len(losses) == 4
    assert len(looks) == 1
    assert equal(edit, whole[2])
    assert ctx.numbers["stopped_after"] == 4


@pytest.mark.parametrize("method", TRAINED)
def test_every_trained_method_shows_the_judge_what_it_saves(target, method):
    chosen = get_manager().method(method)
    options = {**chosen.contract_options, "ema": 0.5, "stop_at": 0.5, "check_every": 2, "check_pictures": 3}
    if "stand_in" in options:
        options["stand_in"] = 0  # fitted at the end, for files of others
    shown = []

    def look(edit, pictures):
        shown.append(edit)
        return 0.0

    plan = make_plan(build_request("tiny", method, "pizza", options=options), target.info)
    artifact = run_plan(plan, target, target_rate=look)
    assert artifact.manifest.extra["numbers"]["stopped_after"] == 2
    assert len(shown) == 1
    assert equal(shown[0], artifact.edit)
    full = run_plan(replace(plan, options={**plan.options, "stop_at": None}), target)
    assert "stopped_after" not in full.manifest.extra["numbers"]
    assert not equal(full.edit, artifact.edit)
