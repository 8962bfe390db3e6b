"""Masks of a concept's words in states, read once and kept for a resumed run."""

from __future__ import annotations

import pytest
import torch

from erase_plugins.engine.adapters import Adapters
from erase_plugins.engine.context import RunContext
from erase_plugins.engine.pools import Rollout
from erase_plugins.errors import RequestError
from erase_plugins.methods.receler.attention_masks import Masks
from erase_plugins.workflow.models import target_of


@pytest.fixture
def target(tiny_sd1):
    return target_of(tiny_sd1(), "tiny")


def build(target, ctx, scale=2.0, threshold=0.5):
    adapters = Adapters(target, target.modules("cross_kv"), 2)
    rollout = Rollout(target, "ddim", 4, 3.0, 3, ctx, adapters)
    return Masks(target, adapters, scale, threshold, ctx), rollout.pool("erase", ["a pizza", "pizza"], "key")


def test_every_state_gets_the_mask_of_its_words(target):
    ctx = RunContext("t")
    masks, pool = build(target, ctx)
    assert {ref.path.split(".")[0] for ref in masks.layers} == {"mid_block"}  # 4 x 4 of 8 x 8 latents
    before = ctx.numbers["unet_forwards"]
    states = masks.on(pool.states, pool.cond, ["pizza"] * len(pool.states))
    assert ctx.numbers["unet_forwards"] == before + len(states)
    inside = masks.at(states, 64)
    assert inside.shape == (len(states), 64)
    assert set(inside.flatten().tolist()) == {0.0, 1.0}
    assert float(masks.at(states, 16).mean()) == pytest.approx(float(inside.mean()))
    assert torch.equal(states.predictions["prompt"], pool.states.predictions["prompt"])
    with pytest.raises(RequestError, match="not in the prompt"):
        masks.on(pool.states, pool.cond, ["dog"] * len(pool.states))


def test_the_level_follows_the_scale_and_the_size_the_threshold(target):
    ctx = RunContext("t")
    fine, pool = build(target, ctx, scale=1.0, threshold=0.0)
    assert not any(ref.path.startswith("mid_block") for ref in fine.layers)
    assert bool((fine.at(fine.on(pool.states, pool.cond, ["pizza"] * 6), 64) == 1).all())


def test_a_resumed_run_reads_them_from_its_folder(target, tmp_path):
    first = RunContext("t", work=tmp_path)
    masks, pool = build(target, first)
    made = masks.on(pool.states, pool.cond, ["pizza"] * 6, "key", "masks-0")
    again = RunContext("t", work=tmp_path, resume=True)
    masks, pool = build(target, again)
    read = masks.on(pool.states, pool.cond, ["pizza"] * 6, "key", "masks-0")
    assert torch.equal(masks.at(made, 64), masks.at(read, 64))
    assert again.numbers["unet_forwards"] == first.numbers["unet_forwards"]
