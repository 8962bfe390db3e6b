"""What is trained out of a LoRA: on which states, with which targets, and in which unit errors count."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext

import pytest
import torch

from erase_plugins.artifacts.edit import LowRank
from erase_plugins.engine.trajectories import ask
from erase_plugins.workflow.lora_unlearning import Schedule, _by_time, _joined, _some, _taught, unlearn
from erase_plugins.workflow.models import target_of

PROMPTS = ("a barn", "a red barn on a hill")


@pytest.fixture(scope="module")
def target():
    from erase_plugins.testing.tiny import tiny_sd1

    return target_of(tiny_sd1(), "tiny")


@contextmanager
def moved(target, group, amount):
    """Weights of a group made other ones, as a LoRA does."""
    weights = [target.module(ref).weight for ref in target.modules(group)]
    before = [weight.detach().clone() for weight in weights]
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for weight in weights:
            weight += amount * torch.randn(weight.shape, generator=generator)
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, old in zip(weights, before, strict=True):
                weight.copy_(old)


def taught(target, drawer, teacher, lora, solved=nullcontext):
    generator = torch.Generator().manual_seed(0)
    return _taught(target, PROMPTS, drawer, teacher, lora, solved, Schedule(sampler=3), generator)


def test_a_target_is_what_the_teacher_predicts_and_the_unit_what_the_lora_changes(target):
    def lora():
        return moved(target, "cross_kv", 0.5)

    for drawer, teacher in ((nullcontext, nullcontext), (lora, nullcontext), (lora, lora)):
        named, empty = taught(target, drawer, teacher, lora)
        assert len(named.inputs) == 6 and named.prompt.tolist() == [0, 0, 0, 1, 1, 1]
        rows = torch.arange(6)
        with torch.no_grad():
            base = named.ask(target, rows)
            with lora():
                changed = named.ask(target, rows)
            with teacher():
                torch.testing.assert_close(named.wanted, named.ask(target, rows), rtol=1e-4, atol=1e-5)
            with drawer():
                torch.testing.assert_close(empty.wanted, empty.ask(target, rows), rtol=1e-4, atol=1e-5)
        effect = (changed - base).square().flatten(1).mean(1)
        for time in named.times.unique():
            there = named.times == time
            torch.testing.assert_close(named.sizes[there], effect[there].mean().expand(2), rtol=1e-3, atol=1e-7)
        torch.testing.assert_close(empty.sizes, named.sizes * 16 / 9)


def test_what_is_trained_reads_the_text_encoder_that_it_will_stand_behind(target):
    def lora():
        return moved(target, "text", 0.5)

    def solved():
        return moved(target, "text", 0.1)

    named, _ = taught(target, lora, lora, lora, solved)
    with solved(), torch.no_grad():
        wanted = target.encode_live(target.tokens(list(PROMPTS))).embeds
    torch.testing.assert_close(named.cond.embeds, wanted)
    with torch.no_grad(), lora():
        rows = target.encode_live(target.tokens(list(PROMPTS)))[named.prompt.tolist()]
        torch.testing.assert_close(
            named.wanted, ask(target, named.inputs, named.times, rows, None), rtol=1e-4, atol=1e-5
        )


def test_the_plan_counts_every_prediction(target, monkeypatch):
    """Predictions for one state each, those of training steps three times: exactly what is asked for."""
    schedule = Schedule(steps=2, prompts=2, sampler=3, listened=4)
    (ref, *_) = target.modules("cross_kv")
    generator = torch.Generator().manual_seed(5)
    down, up = torch.randn(2, ref.shape[1], generator=generator), torch.randn(ref.shape[0], 2, generator=generator)
    asked, predict = [], type(target).predict

    def counting(self, latents, *rest):
        asked.append(len(latents) * (3 if torch.is_grad_enabled() else 1))
        return predict(self, latents, *rest)

    monkeypatch.setattr(type(target), "predict", counting)
    old = {ref.component: {ref.weight: LowRank(down, up)}}
    prompts = (PROMPTS, PROMPTS, [*PROMPTS, "a house", ""])
    made = unlearn(target, old, {}, prompts, (lambda: nullcontext(), nullcontext), schedule, 0)
    assert sum(asked) == schedule.evaluations()
    assert made[ref.component, ref.weight].shape == down.shape


def test_errors_count_alike_at_all_noise_levels_and_none_without_bound():
    values, times = torch.tensor([1.0, 3, 1e-9, 2e-9]), torch.tensor([7, 7, 900, 900])
    torch.testing.assert_close(_by_time(values, times), torch.tensor([2.0, 2, 2e-3, 2e-3]))
    assert _by_time(torch.zeros(3), torch.tensor([1, 2, 3])).min() > 0


def test_joined_states_keep_their_prompts(target):
    one, _ = taught(target, nullcontext, nullcontext, nullcontext)
    both = _joined([one, one])
    assert both.prompt.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert both.cond.prompts == PROMPTS * 2


def test_prompts_are_taken_in_turn_and_again_where_there_are_few():
    draw = torch.Generator().manual_seed(0)
    assert sorted(_some(["a", "b"], 5, draw)) in (["a"] * 3 + ["b"] * 2, ["a"] * 2 + ["b"] * 3)
    assert _some([], 3, draw) == []
