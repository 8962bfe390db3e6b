"""The running average: the known recursion, off by default, alone in force where the edit is made."""

from __future__ import annotations

import pytest
import torch

from erase_plugins.engine.adapters import Adapters
from erase_plugins.engine.average import Average
from erase_plugins.engine.context import RunContext
from erase_plugins.engine.loop import Schedule, train
from erase_plugins.workflow.models import target_of


@pytest.fixture
def target(tiny_sd1):
    return target_of(tiny_sd1(), "tiny")


def trained(target, ema, steps=12):
    """Values after every step, and those that are left at the end."""
    adapters = Adapters(target, target.modules("cross_k"), 2, generator=torch.Generator().manual_seed(0))
    cond, x = target.encode(["pizza"]), torch.zeros((1, *target.info.latent_shape))
    seen = []

    def loss(step):
        seen.append([part.detach().clone() for part in adapters.parameters()])
        return (target.predict(x, 400, cond) - step).square().mean()

    with adapters:
        train(RunContext("t"), adapters, loss, Schedule(steps, 1e-2, ema=ema), "key")
    return seen, [part.detach().clone() for part in adapters.parameters()]


def test_the_end_is_the_average_of_the_steps_and_the_course_is_the_same(target):
    seen, last = trained(target, 0.0)
    averaged_course, found = trained(target, 0.5)
    for one, two in zip(seen, averaged_course, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    expected = seen[0]
    for step, values in enumerate([*seen[1:], last]):
        keep = min(0.5, (1 + step) / (10 + step))
        expected = [keep * mean + (1 - keep) * value for mean, value in zip(expected, values, strict=True)]
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-7)
    assert not all(torch.equal(one, two) for one, two in zip(found, last, strict=True))


def test_it_smooths_what_shakes(target):
    """Values that jump to and fro end near their middle."""
    adapters = Adapters(target, target.modules("cross_k"), 2, generator=torch.Generator().manual_seed(0))
    average = Average(adapters, 0.95)
    for step in range(200):
        with torch.no_grad():
            for part in adapters.parameters():
                part.fill_(1.0 if step % 2 else -1.0)
        average.update(step)
    assert all(float(part.abs().max()) < 0.05 for part in average.values.values())


def test_in_force_it_takes_the_place_of_the_values_and_gives_it_back(target):
    adapters = Adapters(target, target.modules("cross_k"), 2, generator=torch.Generator().manual_seed(0))
    average, start = Average(adapters, 0.9), adapters.edit()
    with torch.no_grad():
        for part in adapters.parameters():
            part.add_(1.0)
    moved = [part.clone() for part in adapters.parameters()]
    with average.in_force():
        for (_, _, one), (_, _, two) in zip(adapters.edit().items(), start.items(), strict=True):
            assert torch.equal(one.A, two.A)
    assert all(torch.equal(part, value) for part, value in zip(adapters.parameters(), moved, strict=True))
