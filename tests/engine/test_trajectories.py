"""Harvested trajectories: exact states, exact counts, correct scaling."""

from __future__ import annotations

import pytest
import torch

from erase_plugins.engine.context import RunContext
from erase_plugins.engine.trajectories import (
    States,
    ask_pair,
    draw_picks,
    guided,
    harvest,
    join,
    repeat,
    start_noise,
)
from erase_plugins.workflow.models import target_of

STEPS = 6


@pytest.fixture(scope="module")
def target():
    from erase_plugins.testing.tiny import tiny_sd1

    return target_of(tiny_sd1(), "tiny")


@pytest.fixture(scope="module")
def sdxl():
    from erase_plugins.testing.tiny import tiny_sdxl

    return target_of(tiny_sdxl(), "tiny")


def collect(target, picks, kind="ddim", guidance=3.0, **options):
    scheduler = target.scheduler(STEPS, kind)
    noise = start_noise(target, scheduler, len(picks), torch.Generator().manual_seed(1))
    prompts = ["a dog", "pizza", "a red car"][: len(picks)]
    cond, null = target.encode(prompts), target.encode([""])
    return noise, cond, null, harvest(target, scheduler, noise, cond, null, picks, guidance=guidance, **options)


def plain_rollout(target, kind, noise, cond, null, stop, guidance=3.0):
    """Textbook rollout of one sample, two separate passes per step."""
    scheduler = target.scheduler(STEPS, kind)
    x = noise
    with torch.no_grad():
        for stamp in scheduler.timesteps[:stop]:
            inputs = scheduler.scale_model_input(x, stamp)
            a, b = target.predict(inputs, stamp, null), target.predict(inputs, stamp, cond)
            x = scheduler.step(a + guidance * (b - a), stamp, x).prev_sample
    return x


@pytest.mark.parametrize("kind", ["ddim", "euler"])
def test_states_are_those_of_a_plain_rollout(target, sdxl, kind):
    model = target if kind == "ddim" else sdxl
    picks = [[0, 3], [2, 5], [4]]
    noise, cond, null, states = collect(model, picks, kind)
    assert list(zip(states.row.tolist(), states.index.tolist(), strict=True)) == [
        (0, 0),
        (0, 3),
        (1, 2),
        (1, 5),
        (2, 4),
    ]
    for n in range(len(states)):
        row, index = int(states.row[n]), int(states.index[n])
        x = plain_rollout(model, kind, noise[row : row + 1], cond[row], null, index)
        torch.testing.assert_close(states.x[n : n + 1], x, rtol=1e-5, atol=1e-5)
        scheduler = model.scheduler(STEPS, kind)
        stamp = scheduler.timesteps[index]
        assert float(states.timestep[n]) == float(stamp)
        inputs = scheduler.scale_model_input(x, stamp)
        torch.testing.assert_close(states.inputs[n : n + 1], inputs, rtol=1e-5, atol=1e-5)
        with torch.no_grad():
            torch.testing.assert_close(
                states.predictions["prompt"][n : n + 1], model.predict(inputs, stamp, cond[row]), rtol=1e-4, atol=1e-5
            )
            torch.testing.assert_close(
                states.predictions["null"][n : n + 1], model.predict(inputs, stamp, null), rtol=1e-4, atol=1e-5
            )


def test_step_zero_keeps_the_noise_itself(target):
    noise, _, _, states = collect(target, [[0], [0]])
    assert torch.equal(states.x, noise)


def test_euler_inputs_are_divided_by_root_of_sigma_squared_plus_one(sdxl):
    _, _, _, states = collect(sdxl, [[1, 4]], "euler")
    sigmas = sdxl.scheduler(STEPS, "euler").sigmas[states.index].view(-1, 1, 1, 1)
    assert float(sigmas.max()) > 2
    torch.testing.assert_close(states.inputs, states.x / (sigmas**2 + 1).sqrt())


def test_forward_passes_are_counted_in_samples_and_finished_rows_leave(target):
    ctx = RunContext("test")
    collect(target, [[0, 3], [2]], ctx=ctx)
    assert ctx.numbers["unet_forwards"] == 2 * (4 + 3)


def test_batches_do_not_change_the_states(target):
    picks = [[1, 3], [4], [0, 2]]
    whole, split = collect(target, picks)[3], collect(target, picks, batch=2)[3]
    assert torch.equal(whole.index, split.index)
    torch.testing.assert_close(whole.x, split.x, rtol=1e-5, atol=1e-5)


def test_watched_prompts_are_predicted_at_the_kept_states(target):
    watch = {"erase": target.encode(["cat", "bus"])}
    _, _, _, states = collect(target, [[1], [2]], watch=watch)
    for n in range(2):
        with torch.no_grad():
            found = target.predict(states.inputs[n : n + 1], states.timestep[n], watch["erase"][n])
        torch.testing.assert_close(states.predictions["erase"][n : n + 1], found, rtol=1e-4, atol=1e-5)


def test_a_separate_observer_makes_the_stored_predictions(target):
    from contextlib import contextmanager

    unet = target.pipe.unet

    @contextmanager
    def shifted():
        before = unet.conv_out.bias.data.clone()
        unet.conv_out.bias.data += 1.0
        try:
            yield
        finally:
            unet.conv_out.bias.data.copy_(before)

    plain = collect(target, [[2]])[3]
    seen = collect(target, [[2]], observe=shifted)[3]
    assert torch.equal(plain.x, seen.x)
    for name in ("null", "prompt"):
        torch.testing.assert_close(seen.predictions[name], plain.predictions[name] + 1.0, rtol=1e-5, atol=1e-5)


def test_progress_may_stop_a_rollout(target):
    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collect(target, [[3]], progress=stop)


def test_states_survive_a_round_trip_through_tensors(target):
    states = collect(target, [[1, 2]])[3]
    again = States.of(states.tensors())
    assert torch.equal(again.x, states.x)
    assert torch.equal(again.predictions["null"], states.predictions["null"])
    assert torch.equal(again[torch.tensor([1])].timestep, states.timestep[1:])


def test_picks_are_distinct_and_cover_the_steps():
    picks = draw_picks(200, 10, 4, torch.Generator().manual_seed(0))
    assert all(len(set(item)) == 4 and item == sorted(item) for item in picks)
    counts = torch.bincount(torch.tensor([step for item in picks for step in item]), minlength=10)
    assert 50 < int(counts.min()) <= int(counts.max()) < 110


def test_guidance_formula():
    a, b = torch.tensor([1.0]), torch.tensor([2.0])
    assert float(guided(a, b, 3.0)) == 4.0


def test_pooled_conditions_travel_along(sdxl):
    cond = join([repeat(sdxl.encode([""]), 2), sdxl.encode(["a dog", "a cat"])])
    assert cond.embeds.shape[0] == cond.pooled.shape[0] == 4
    x = torch.randn((2, *sdxl.info.latent_shape), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        first, second = ask_pair(
            sdxl, x, torch.tensor([5.0, 5.0]), sdxl.encode([""]), sdxl.encode(["a dog", "a cat"]), None
        )
        swapped = sdxl.encode(["a dog", "a cat"])
        swapped.pooled = swapped.pooled.flip(0)
        other = sdxl.predict(x, torch.tensor([5.0, 5.0]), swapped)
    assert not torch.equal(first, second)
    assert float((other - second).abs().max()) > 1e-6


def test_no_prompt_is_the_empty_one_and_the_zeros_of_sdxl_pipelines_in_turn(tiny_sdxl, tiny_sd1):
    """A pipeline without a negative prompt asks with zeros; the stored predictions are those of either, by trajectory."""
    from erase_plugins.engine.adapters import Adapters
    from erase_plugins.engine.context import RunContext
    from erase_plugins.engine.pools import Rollout

    target = target_of(tiny_sdxl(), "tiny")
    _, zeros, _, pooled = target.pipe.encode_prompt("pizza", device="cpu", do_classifier_free_guidance=True)
    blank = target.blank(3)
    assert torch.equal(blank.embeds[1], zeros[0])
    assert torch.equal(blank.pooled[1], pooled[0])
    plain = target.encode([""])
    assert plain.embeds.any(), "the cache is not changed"
    assert torch.equal(blank.embeds[2], plain.embeds[0])
    adapters = Adapters(target, target.modules("cross_k")[:1], 1)
    rollout = Rollout(target, "euler", 2, 3.0, 2, RunContext("test"), adapters)
    with adapters:
        states = rollout.pool("erase", ["pizza"] * 3, "key").states
    for place, row in enumerate(states.row.tolist()):
        with torch.no_grad():
            wanted = target.predict(states.inputs[place : place + 1], states.timestep[place : place + 1], blank[[row]])
        torch.testing.assert_close(states.predictions["null"][place], wanted[0], rtol=1e-4, atol=1e-5)
    assert len(target_of(tiny_sd1(), "tiny").blank(3).last) == 1


@pytest.mark.parametrize("null", [True, False])
def test_large_latents_pass_few_at_a_time(target, monkeypatch, null):
    """The passes of 32 trajectories of SDXL with guidance would take 13 GiB."""
    from erase_plugins.engine import activations

    scheduler = target.scheduler(STEPS)
    noise = start_noise(target, scheduler, 3, torch.Generator().manual_seed(1))
    cond, empty = target.encode(["a dog", "pizza", "a red car"]), target.encode([""]) if null else None
    options = {"picks": [[1, 3], [0], [4]], "guidance": 3.0}
    wanted = harvest(target, scheduler, noise, cond, empty, **options)
    sizes, predict = [], target.predict
    monkeypatch.setattr(target, "predict", lambda x, *rest: sizes.append(len(x)) or predict(x, *rest))
    monkeypatch.setattr(activations, "MOST_PLACES", 2 * 8 * 8)
    found = harvest(target, scheduler, noise, cond, empty, **options)
    assert max(sizes) <= 2
    assert found.index.tolist() == wanted.index.tolist()
    assert (found.x - wanted.x).abs().max() < 1e-5
