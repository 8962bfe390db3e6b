"""The training loop: schedule, averages, resume to the bit, refusals."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from pocket_toy import RECIPE, toy
from safetensors.torch import load_file

from erase_plugins.errors import CorruptArtifact, NotFiniteError, RequestError
from tools.pocket.loop import Draw, finished, learning_rate, load_stage, run_stage
from tools.pocket.train_denoiser import min_snr_weights


class Killed(BaseException):
    """Not an Exception: nothing may catch it and tidy up."""


def stop_after(step: int):
    def on_step(_: str, done: int, __: int, ___: float) -> None:
        if done == step:
            raise Killed

    return on_step


def test_schedule():
    rates = [learning_rate(step, 100, 0.1) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * (step + 1) for step in range(10)])
    assert max(rates) == rates[9] == rates[10] == 1
    assert rates[55] == pytest.approx(0.5)
    assert rates[-1] < 1e-3


def test_draws_depend_on_seed_stage_and_step_only():
    def key(*which):
        draw = Draw.of(*which)
        return float(draw.rng.random()), float(torch.rand(1, generator=draw.noise))

    assert key(0, "vae", 5) == key(0, "vae", 5)
    others = {key(0, "vae", 5), key(1, "vae", 5), key(0, "judge", 5), key(0, "vae", 6)}
    assert len(others) == 4


@pytest.mark.parametrize("stop", [1, 3, 4, 9])
def test_killed_and_resumed_equals_uninterrupted(tmp_path, stop):
    whole, part = tmp_path / "whole", tmp_path / "part"
    for folder in (whole, part):
        folder.mkdir()
    expected = run_stage(toy(), whole, RECIPE)
    with pytest.raises(Killed):
        run_stage(toy(), part, RECIPE, stop_after(stop))
    seen = []
    resumed = toy()
    run_stage(resumed, part, RECIPE, lambda _, done, *__: seen.append(done))
    assert seen[0] == stop // 3 * 3 + 1  # from the last checkpoint, not from the start
    assert seen[-1] == 10
    a, b = load_file(whole / "toy.safetensors"), load_file(part / "toy.safetensors")
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert "net.1.running_mean" in a
    assert not any(name.startswith("optimizer") for name in a)
    assert expected > 0


def test_training_lowers_the_loss_and_leaves_frozen_parts(tmp_path):
    stage = toy(200, ema=None)
    before = stage.modules["frozen"].weight.clone()
    losses = []
    run_stage(stage, tmp_path, RECIPE, lambda *step: losses.append(step[3]))
    assert sum(losses[-20:]) < 0.2 * sum(losses[:20])
    assert torch.equal(stage.modules["frozen"].weight, before)


def test_finished_stage_does_not_train_again(tmp_path):
    run_stage(toy(), tmp_path, RECIPE)
    assert finished(tmp_path / "toy.safetensors") == 10
    steps = []
    again = toy()
    run_stage(again, tmp_path, RECIPE, lambda *step: steps.append(step))
    assert steps == []
    assert torch.equal(again.modules["net"][0].weight, load_file(tmp_path / "toy.safetensors")["net.0.weight"])


def test_average_follows_its_formula(tmp_path):
    stage = toy(3, ema=0.15)
    path, states = [], []
    path.append(stage.modules["net"][0].weight.detach().clone())
    run_stage(stage, tmp_path, RECIPE, lambda *_: states.append(stage.modules["net"][0].weight.detach().clone()))
    expected = path[0]
    for step, state in enumerate(states):
        decay = min(0.15, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * state
    assert torch.allclose(stage.shadow["net.0.weight"], expected, atol=1e-7)
    net = toy().modules["net"]
    load_stage(tmp_path / "toy.safetensors", {"net": net}, average=True)
    assert torch.equal(net[0].weight, stage.shadow["net.0.weight"])
    load_stage(tmp_path / "toy.safetensors", {"net": net})
    assert torch.equal(net[0].weight, states[-1])


def test_other_recipe_is_refused(tmp_path):
    with pytest.raises(Killed):
        run_stage(toy(), tmp_path, RECIPE, stop_after(4))
    with pytest.raises(RequestError, match=r"another recipe: weight_decay \(was 0\.01, is 0\.5\)"):
        run_stage(toy(), tmp_path, replace(RECIPE, weight_decay=0.5))
    run_stage(toy(), tmp_path, replace(RECIPE, checkpoint_every=1))  # changes no result, so it is allowed


def test_not_a_number_stops_and_keeps_the_checkpoint(tmp_path):
    with pytest.raises(NotFiniteError, match="'toy' is nan at step 4"):
        run_stage(toy(bad_at=4), tmp_path, RECIPE)
    assert finished(tmp_path / "toy.safetensors") == 3


def test_truncated_checkpoint_is_named(tmp_path):
    run_stage(toy(), tmp_path, RECIPE)
    path = tmp_path / "toy.safetensors"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(CorruptArtifact, match=r"'toy\.safetensors' cannot be read"):
        run_stage(toy(), tmp_path, RECIPE)


def test_min_snr_weights():
    cumulative = torch.tensor([0.99, 5 / 6, 0.5, 0.01])  # signal-to-noise 99, 5, 1, 1/99
    assert torch.allclose(min_snr_weights(cumulative, 5.0), torch.tensor([5 / 99, 1.0, 1.0, 1.0]))
