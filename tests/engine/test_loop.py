"""The training loop: resume to the last bit, cancel at a step, refusal of NaN."""

from __future__ import annotations

import threading

import pytest
import torch

from erase_plugins.engine.adapters import Adapters
from erase_plugins.engine.checkpoint import Checkpoint
from erase_plugins.engine.context import RunContext
from erase_plugins.engine.loop import Scale, Schedule, shuffled, train
from erase_plugins.errors import NotFiniteError, RunCancelled
from erase_plugins.workflow.models import target_of


@pytest.fixture
def target(tiny_sd1):
    return target_of(tiny_sd1(), "tiny")


def setting(target):
    """Adapters, and a loss that differs from step to step."""
    adapters = Adapters(target, target.modules("cross_kv"), 2, generator=torch.Generator().manual_seed(0))
    cond = target.encode(["pizza"])

    def loss(step):
        x = torch.randn((1, *target.info.latent_shape), generator=torch.Generator().manual_seed(step))
        return (target.predict(x, 400, cond) - 1.0).square().mean()

    return adapters, loss


def values(adapters):
    return [part.detach().clone() for part in adapters.parameters()]


@pytest.mark.parametrize(("optimizer", "ema"), [("adam", 0.0), ("adamw", 0.0), ("sgd", 0.0), ("adam", 0.5)])
def test_resumed_equals_uninterrupted(target, tmp_path, optimizer, ema):
    schedule = Schedule(7, 1e-2, optimizer, cooldown=0.5, every=3, ema=ema)
    adapters, loss = setting(target)
    with adapters:
        whole = train(RunContext("t"), adapters, loss, schedule, "key")
    expected = values(adapters)

    cancel = threading.Event()
    adapters, loss = setting(target)
    ctx = RunContext("t", work=tmp_path, cancel=cancel, listeners=(lambda event: event.done == 4 and cancel.set(),))
    with adapters, pytest.raises(RunCancelled, match="step 4 of 7"):
        train(ctx, adapters, loss, schedule, "key")

    adapters, loss = setting(target)
    done = []
    ctx = RunContext("t", work=tmp_path, resume=True, listeners=(lambda event: done.append(event),))
    with adapters:
        losses = train(ctx, adapters, loss, schedule, "key")
    assert [event.done for event in done if event.kind == "step"] == [5, 6, 7]
    assert losses == whole
    assert all(torch.equal(a, b) for a, b in zip(values(adapters), expected, strict=True))


def test_a_stop_inside_a_loss_keeps_the_finished_steps(target, tmp_path):
    schedule = Schedule(5, 1e-2, every=100)
    adapters, loss = setting(target)
    with adapters:
        train(RunContext("t"), adapters, loss, schedule, "key")
    expected = values(adapters)
    adapters, loss = setting(target)

    def stopping(step):
        if step == 3:
            raise RunCancelled("in a rollout")
        return loss(step)

    with adapters, pytest.raises(RunCancelled):
        train(RunContext("t", work=tmp_path), adapters, stopping, schedule, "key")
    assert Checkpoint(tmp_path).load("key")[0] == 3
    adapters, loss = setting(target)
    with adapters:
        train(RunContext("t", work=tmp_path, resume=True), adapters, loss, schedule, "key")
    assert all(torch.equal(a, b) for a, b in zip(values(adapters), expected, strict=True))


def test_checkpoints_come_every_so_often_and_only_for_their_key(target, tmp_path):
    adapters, loss = setting(target)
    kinds = []
    ctx = RunContext("t", work=tmp_path, listeners=(lambda event: kinds.append((event.kind, event.done)),))
    with adapters:
        train(ctx, adapters, loss, Schedule(5, 1e-2, every=2), "key")
    assert [done for kind, done in kinds if kind == "checkpoint"] == [2, 4]
    assert Checkpoint(tmp_path).load("key")[0] == 4
    assert Checkpoint(tmp_path).load("other key") is None


def test_nan_is_refused_and_the_sound_checkpoint_stays(target, tmp_path):
    adapters, loss = setting(target)

    def poisoned(step):
        return loss(step) * (float("nan") if step == 3 else 1.0)

    with adapters, pytest.raises(NotFiniteError, match="step 3"):
        train(RunContext("t", work=tmp_path), adapters, poisoned, Schedule(5, 1e-2, every=2), "key")
    step, tensors, _ = Checkpoint(tmp_path).load("key")
    assert step == 2
    assert all(bool(torch.isfinite(part).all()) for part in tensors.values())
    assert all(bool(torch.isfinite(part).all()) for part in values(adapters))


def test_the_loss_falls(target):
    adapters, _ = setting(target)
    cond, x = target.encode(["pizza"]), torch.zeros((1, *target.info.latent_shape))
    with torch.no_grad():
        goal = target.predict(x, 400, target.encode(["dog"]))
    with adapters:
        losses = train(
            RunContext("t"), adapters, lambda step: (target.predict(x, 400, cond) - goal).square().mean(),
            Schedule(40, 2e-2), "key",
        )  # fmt: skip
    assert losses[-1] < 0.3 * losses[0]


def test_cooldown_ends_at_zero_and_is_off_by_default():
    assert [Schedule(4, 1.0).rate(step) for step in range(4)] == [1.0] * 4
    assert [Schedule(4, 1.0, cooldown=0.5).rate(step) for step in range(4)] == [1.0, 1.0, 1.0, 0.5]


def test_every_pass_visits_every_row_once_in_its_own_order():
    ctx = RunContext("t", seed=5)
    rows = torch.cat([shuffled(ctx, "pool", 7, 3, step) for step in range(14)]).tolist()
    passes = [rows[start : start + 7] for start in range(0, 42, 7)]
    assert all(sorted(order) == list(range(7)) for order in passes)
    assert len({tuple(order) for order in passes}) > 1
    assert shuffled(ctx, "pool", 7, 3, 2).tolist() == rows[6:9]


def test_a_stash_is_made_once_per_key(tmp_path):
    made = []

    def make():
        made.append(1)
        return {"x": torch.full((2,), float(len(made)))}

    assert float(RunContext("t", work=tmp_path).stash("pool", "a", make)["x"][0]) == 1
    again = RunContext("t", work=tmp_path, resume=True)
    assert float(again.stash("pool", "a", make)["x"][0]) == 1
    assert float(again.stash("pool", "b", make)["x"][0]) == 2
    assert float(RunContext("t", work=tmp_path).stash("pool", "b", make)["x"][0]) == 3


class Half:
    """One trained value whose gradient passes through float16."""

    def __init__(self):
        self.value = torch.ones(1, requires_grad=True)

    def parameters(self):
        return [self.value]

    def named_parameters(self):
        return {"value": self.value.detach()}

    def load(self, tensors):
        self.value.data.copy_(tensors["value"])


def small(half):
    """A loss whose gradient is 1e-8 times a float16 number: 0 there."""
    return lambda step: ((half.value.half() * 1e-4) * 1e-4).float().sum()


def large(half):
    """A loss whose gradient is 4e4 in float16: infinite from a factor of 2 on."""
    return lambda step: (half.value.half() * 4e4).float().sum()


def test_small_gradients_survive_float16_with_a_scaled_loss():
    for scaled, moved in ((False, 0.0), (True, 1e-8)):
        half = Half()
        train(RunContext("t"), half, small(half), Schedule(1, 1e4, "sgd", scaled=scaled), "key")
        assert 1.0 - half.value.item() == pytest.approx(1e4 * moved, rel=1e-2)


def test_a_factor_that_makes_gradients_infinite_is_halved_and_the_step_is_taken():
    half, scale = Half(), Scale()
    (grad,) = scale.grads(large(half)(0), half.parameters())
    assert grad.item() == pytest.approx(4e4, rel=1e-3)
    assert scale.power == 0
    train(RunContext("t"), half, large(half), Schedule(2, 1e-5, "sgd", scaled=True), "key")
    assert half.value.item() == pytest.approx(1.0 - 0.8, rel=1e-3)


def test_a_long_sound_spell_makes_the_factor_larger():
    half, scale = Half(), Scale()
    for _ in range(Scale.spell):
        scale.grads(small(half)(0), half.parameters())
    assert (scale.power, scale.sound) == (13, 0)


def test_a_resumed_run_goes_on_with_its_factor(tmp_path):
    schedule, cancel = Schedule(4, 1e-5, "sgd", every=1, scaled=True), threading.Event()
    half = Half()
    whole = train(RunContext("t"), half, large(half), schedule, "key")
    again = Half()
    ctx = RunContext("t", work=tmp_path, cancel=cancel, listeners=(lambda event: event.done == 2 and cancel.set(),))
    with pytest.raises(RunCancelled):
        train(ctx, again, large(again), schedule, "key")
    again = Half()
    assert train(RunContext("t", work=tmp_path, resume=True), again, large(again), schedule, "key") == whole
    assert torch.equal(half.value, again.value)
