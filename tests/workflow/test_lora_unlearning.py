"""What is trained out of a LoRA: on which states, with which targets, and in which unit errors count."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from erase_plugins.artifacts.edit import LowRank
from erase_plugins.engine.trajectories import ask
from erase_plugins.families.conditioning import Conditioning
from erase_plugins.workflow import lora_unlearning
from erase_plugins.workflow.lora_states import Lessons, States, by_time
from erase_plugins.workflow.lora_unlearning import (
    Schedule,
    _begin,
    _drawn,
    _error,
    _fitting,
    _lessons,
    _some,
    _white,
    taught_off,
    unlearn,
)
from erase_plugins.workflow.lora_whitening import steps_on
from erase_plugins.workflow.models import target_of

PROMPTS = ("a barn", "a red barn on a hill")
#: no closed form on prompts, with each of the usual weights
NOTHING = ({},) * len(Schedule().tries)


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


@torch.no_grad()
def answers(target, states, prompts):
    """By the model as it is now."""
    cond = target.encode_live(target.tokens(list(prompts)))
    return ask(target, states.inputs, states.times, cond, None)


def low_rank(target):
    """(old deltas, place, shape of the factor) of a LoRA on one module that reads text."""
    (ref, *_) = target.modules("cross_kv")
    generator = torch.Generator().manual_seed(5)
    down, up = torch.randn(2, ref.shape[1], generator=generator), torch.randn(ref.shape[0], 2, generator=generator)
    return {ref.component: {ref.weight: LowRank(down, up)}}, (ref.component, ref.weight), down


def test_a_size_is_what_the_lora_changes_at_that_time(target):
    def lora():
        return moved(target, "cross_kv", 0.5)

    for drawer, other in ((nullcontext, lora), (lora, nullcontext)):
        states = _drawn(target, PROMPTS, drawer, other, Schedule(sampler=3), torch.Generator().manual_seed(0))
        assert len(states.inputs) == 6
        asked = [prompt for prompt in PROMPTS for _ in range(3)]
        base = answers(target, states, asked)
        with lora():
            changed = answers(target, states, asked)
        effect = (changed - base).square().flatten(1).mean(1)
        for time in states.times.unique():
            there = states.times == time
            torch.testing.assert_close(states.sizes[there], effect[there].mean().expand(2), rtol=1e-3, atol=1e-7)


def test_a_lesson_is_what_the_teacher_predicts_for_its_prompt(target):
    """Read by the text encoder that the new LoRA will stand behind, answered by that of the teacher."""

    def teacher():
        return moved(target, "text", 0.5)

    def solved():
        return moved(target, "text", 0.1)

    size = target.info.latent_shape
    states = States(torch.randn(3, *size), torch.tensor([1, 500, 900]), torch.tensor([1.0, 2, 3]))
    asked = ["a barn", "", "a red barn on a hill", "a barn", ""]
    made = _lessons(target, states, asked, teacher, solved, 0.25, torch.Generator().manual_seed(2))
    rows = [states.times.tolist().index(time) for time in made.times.tolist()]
    assert len(set(rows)) > 1 and torch.equal(made.inputs, states.inputs[rows])
    torch.testing.assert_close(made.sizes, 0.25 * states.sizes[rows])
    with teacher():
        torch.testing.assert_close(made.wanted, answers(target, made, asked), rtol=1e-4, atol=1e-5)
    with torch.no_grad(), solved():
        torch.testing.assert_close(made.cond.embeds, target.encode_live(target.tokens(asked)).embeds)
    part = made[1:3]
    assert part.cond.prompts == ("", "a red barn on a hill") and torch.equal(part.wanted, made.wanted[1:3])


def test_every_step_has_prompts_and_states_of_its_own(target, monkeypatch):
    """Those after the ones that were drawn, each once; the empty prompt beside them."""
    steps, asked = 3, []
    schedule = Schedule(steps=steps, prompts=2, sampler=3)
    counts = [schedule.prompts + steps * count for count in schedule.batch[:2]]
    named, kept = ([f"{word} {number}" for number in range(count)] for word, count in zip("nk", counts, strict=True))
    real = lora_unlearning.ask

    def watching(target, inputs, times, cond, ctx):
        if torch.is_grad_enabled():
            asked.append(cond.prompts)
        return real(target, inputs, times, cond, ctx)

    monkeypatch.setattr(lora_unlearning, "ask", watching)
    old, place, down = low_rank(target)
    made = unlearn(target, old, NOTHING, (named, kept), (lambda: nullcontext(), nullcontext), schedule, 0)
    first, second, third = schedule.batch
    assert [len(step) for step in asked] == [first + second + third] * steps
    assert [text for step in asked for text in step[:first]] == named[2:]
    assert [text for step in asked for text in step[first : first + second]] == kept[2:]
    assert {text for step in asked for text in step[first + second :]} == {""}
    assert made[place].shape == down.shape


def test_what_reads_no_text_begins_from_the_closed_form_on_what_it_reads(target, monkeypatch):
    """Seen with a rate of nothing."""
    from erase_plugins.workflow.lora_features import taken_off

    (text, *_) = target.modules("cross_kv")
    (ref, *_) = [ref for ref in target.info.refs if "attn1.to_q" in ref.weight]
    generator = torch.Generator().manual_seed(5)
    old = {"unet": {}}
    for item in (text, ref):
        down, up = (
            torch.randn(2, item.shape[1], generator=generator),
            torch.randn(item.shape[0], 2, generator=generator),
        )
        old["unet"][item.weight] = LowRank(down, up)
    real = lora_unlearning.taken_off
    place, solved = ("unet", ref.weight), torch.randn(2, text.shape[1], generator=generator)
    seen: list = []
    schedule = Schedule(steps=2, prompts=2, sampler=3, rate=0.0, keep=5.0, weights=(2.0,))
    monkeypatch.setattr(lora_unlearning, "taken_off", lambda *given: seen.append(given) or real(*given))
    prompts = (["a barn"] * 12, ["a house"] * 16)
    made = unlearn(target, old, [{("unet", text.weight): solved}], prompts, (nullcontext, nullcontext), schedule, 0)
    ((A, named, kept, erase),) = seen  # the module that reads text has its own closed form
    assert torch.equal(A, old["unet"][ref.weight].A) and erase == 0.4  # 2 / 5
    assert named.shape[1] == kept.shape[1] == ref.shape[1] and len(named) > 100
    near = {"rtol": 1e-4, "atol": 1e-5}  # whitened and back in float32
    torch.testing.assert_close(made[place], taken_off(A, named, kept, erase), **near)
    torch.testing.assert_close(made["unet", text.weight], solved.double(), **near)


def test_factors_are_trained_in_white_coordinates_of_all_that_is_read(target, monkeypatch):
    """Of layers that read text, too: rows of the concept's prompts, of those that stay, and of the empty one."""
    seen: list = []
    monkeypatch.setattr(lora_unlearning, "steps_on", lambda factors, *_rest: seen.extend(factors))
    monkeypatch.setattr(lora_unlearning.White, "of", lambda rows, _device: rows)
    schedule = Schedule(steps=2, prompts=1, sampler=2)
    named, kept = (["a barn"] * (1 + 2 * count) for count in schedule.batch[:2])
    unlearn(target, low_rank(target)[0], NOTHING, (named, kept), (nullcontext, nullcontext), schedule, 0)
    ((_, rows),) = seen
    with torch.no_grad():
        barn, empty = (target.encode_live(target.tokens([text])).embeds[0] for text in ("a barn", ""))
    from_barn, from_empty = ((rows[:, None] - known).norm(dim=-1).amin(1) for known in (barn, empty))
    assert torch.minimum(from_barn, from_empty).max() < 1e-4
    assert from_barn.max() > 1e-2 and from_empty.max() > 1e-2


def test_what_is_read_is_left_out_where_it_is_no_number_or_of_another_width():
    factor, rows = torch.ones(2, 3), torch.ones(4, 3)
    assert _white(factor, _fitting(factor, rows, None)) is not None
    assert _fitting(factor, None, torch.ones(4, 5)) == []
    assert _white(factor, []) is None and _white(factor, [torch.full((4, 3), torch.nan)]) is None


def test_who_teaches_what_and_how_much_an_error_counts(target, monkeypatch):
    """Guidance g puts g times the error with a prompt and g - 1 times that without into a picture: an error of the
    silent side counts ((g - 1) / g)^2 of the other's, 9/16 at 4, and what is to stay ``keep`` times as much."""
    taught, real = [], lora_unlearning._lessons

    def noted(target, states, prompts, teacher, solved, unit, generator):
        taught.append((teacher, unit, set(prompts)))
        return real(target, states, prompts, teacher, solved, unit, generator)

    def lora():
        return nullcontext()

    monkeypatch.setattr(lora_unlearning, "_lessons", noted)
    schedule = Schedule(steps=1, prompts=1, sampler=2, keep=5.0, guidance=4.0)
    named, kept = ([word] * (1 + count) for word, count in zip("nk", schedule.batch, strict=False))
    unlearn(target, low_rank(target)[0], NOTHING, (named, kept), (lora, nullcontext), schedule, 0)
    assert [prompts for _, _, prompts in taught] == [{"n"}, {"k"}, {""}]
    assert [teacher for teacher, _, _ in taught] == [nullcontext, lora, lora]
    assert [1 / unit for _, unit, _ in taught] == pytest.approx([1, 5, 5 * 9 / 16])


class Sums:
    """A model of one factor (1, 2), which answers a state of two channels by their sum with it."""

    dtype = torch.float32

    def __init__(self, factor):
        self.factor = factor

    def predict(self, inputs, times, cond):
        return torch.einsum("nihw,oi->nohw", inputs, self.factor)


def by_hand(state, wanted, count, size):
    inputs, times = torch.tensor(state).view(1, 2, 1, 1).expand(count, 2, 1, 1), torch.full((count,), 5)
    cond = Conditioning(torch.zeros(count, 1, 1), (0,) * count)
    return Lessons(inputs, times, torch.full((count,), size), cond, torch.full((count, 1, 1, 1), wanted))


def test_a_factor_forgets_the_direction_of_the_concept_and_keeps_the_other():
    """By hand: kept states are (1, 0), named ones (1, 1), the LoRA answers the sum; (1, -1) answers 1 and 0."""
    factor = nn.Parameter(torch.tensor([[1.0, 1.0]]))
    schedule = Schedule(steps=120, rate=0.1)
    named, kept, empty = (schedule.steps * count for count in schedule.batch)
    taught = (
        by_hand([1.0, 1.0], 0.0, named, 4.0), by_hand([1.0, 0.0], 1.0, kept, 4.0), by_hand([0.0, 0.0], 0.0, empty, 4.0)
    )  # fmt: skip
    model = Sums(factor)
    steps_on([(factor, None)], schedule.steps, schedule.rate, lambda step: _error(model, taught, step, schedule))
    assert abs(float(factor.detach().sum())) < 0.1  # of 2 before
    assert abs(float(factor.detach()[0, 0]) - 1) < 0.05


@pytest.mark.parametrize(("strong", "chosen"), [(1.0, [1.0, 0.5]), (6.0, [0.5, 0.0])])
def test_training_begins_where_least_is_left_to_teach(strong, chosen):
    """By hand, of 5 named and 7 kept states a step, errors of the former divided by 4.

    Kept states are (1, 0) and shall answer 1, named ones (0, strong) and shall answer 0. (1, 0.5) leaves 5 strong^2 / 16
    and nothing of the others; (0.5, 0) leaves nothing and 7 / 4. So the gentle one is better up to 2.4.
    """
    place, schedule = ("unet", "a"), Schedule(steps=3, probed=2)
    slot = SimpleNamespace(A=nn.Parameter(torch.ones(1, 2)))
    starts = [{place: torch.tensor([row])} for row in ([1.0, 0.5], [0.5, 0.0], [0.0, 0.0])]
    named, kept, empty = (schedule.steps * count for count in schedule.batch)
    taught = (
        by_hand([0.0, strong], 0.0, named, 4.0), by_hand([1.0, 0.0], 1.0, kept, 1.0),
        by_hand([0.0, 0.0], 0.0, empty, 1.0),
    )  # fmt: skip
    _begin(Sums(slot.A), {place: slot}, starts, taught, schedule)
    assert slot.A.tolist() == [chosen]


def test_weights_are_in_units_of_what_a_named_error_counts():
    assert Schedule(keep=8.0, weights=(0.5, 1.0, 4.0)).tries == (1 / 16, 1 / 8, 1 / 2)


def test_all_layers_of_a_larger_denoiser_are_taken(monkeypatch):
    """Two text encoders, a pooled vector beside the rows, layers of feed-forward and convolutions: shapes as before."""
    from erase_plugins.testing.tiny import tiny_sdxl

    target = target_of(tiny_sdxl(), "tiny")
    generator = torch.Generator().manual_seed(6)
    old: dict = {"unet": {}}
    for ref in target.info.refs:
        if ref.component == "unet" and ref.kind in ("linear", "conv") and len(ref.shape) in (2, 4):
            down = 0.1 * torch.randn(2, *ref.shape[1:], generator=generator)
            up = 0.1 * torch.randn(ref.shape[0], 2, *(1,) * (len(ref.shape) - 2), generator=generator)
            old["unet"][ref.weight] = LowRank(down, up)
    text = [ref.weight for ref in target.modules("cross_kv")]
    schedule = Schedule(steps=1, prompts=1, sampler=2)
    tried = [{("unet", key): (1 - weight) * old["unet"][key].A.double() for key in text} for weight in schedule.tries]
    prompts = (["a barn"] * 6, ["a house"] * 8)
    made = unlearn(target, old, tried, prompts, (lambda: nullcontext(), nullcontext), schedule, 0)
    assert {place: part.shape for place, part in made.items()} == {
        ("unet", key): delta.A.shape for key, delta in old["unet"].items()
    }
    assert any(part.dim() == 4 for part in made.values())
    for place, part in made.items():
        assert part.isfinite().all()
        assert not torch.equal(part, old["unet"][place[1]].A.double())


def test_the_plan_counts_every_prediction(target, monkeypatch):
    """Predictions for one state each, those of training steps three times: exactly what is asked for."""
    schedule = Schedule(steps=2, prompts=2, sampler=3)
    asked, predict = [], type(target).predict

    def counting(self, latents, *rest):
        asked.append(len(latents) * (3 if torch.is_grad_enabled() else 1))
        return predict(self, latents, *rest)

    monkeypatch.setattr(type(target), "predict", counting)
    prompts = (["a barn"] * 12, ["a house"] * 16)
    unlearn(target, low_rank(target)[0], NOTHING, prompts, (lambda: nullcontext(), nullcontext), schedule, 0)
    assert sum(asked) == schedule.evaluations()


def test_errors_count_alike_at_all_noise_levels_and_none_without_bound():
    values, times = torch.tensor([1.0, 3, 1e-9, 2e-9]), torch.tensor([7, 7, 900, 900])
    torch.testing.assert_close(by_time(values, times), torch.tensor([2.0, 2, 2e-3, 2e-3]))
    assert by_time(torch.zeros(3), torch.tensor([1, 2, 3])).min() > 0


def test_what_is_kept_stands_in_the_prompts_of_its_step(target, monkeypatch):
    """Five of seven kept prompts are those of the concept with the kept word in its place; the others are of neither."""
    seen: list = []
    monkeypatch.setattr(lora_unlearning, "unlearn", lambda _target, _old, _new, prompts, *_rest: seen.append(prompts))
    schedule = Schedule(steps=4, prompts=7, surroundings=5)
    words = ("blue", "old")
    taught_off(target, {}, NOTHING, ["red barn"], ["cat"], words, 0, nullcontext, nullcontext, schedule)
    ((named, kept),) = seen
    first, second, _ = schedule.batch
    assert (len(named), len(kept)) == (7 + 4 * first, 7 + 4 * second)
    blocks = [(0, 0, 7), *((7 + first * step, 7 + second * step, second) for step in range(4))]
    for start, place, count in blocks:
        assert kept[place : place + 5] == [text.replace("red barn", "cat") for text in named[start : start + 5]]
        assert not any("cat" in text or "red barn" in text for text in kept[place + 5 : place + count])
    assert len(set(named)) > 20 and all("red barn" in text for text in named)


def test_prompts_are_taken_in_turn_and_again_where_there_are_few():
    draw = torch.Generator().manual_seed(0)
    assert sorted(_some(["a", "b"], 5, draw)) in (["a"] * 3 + ["b"] * 2, ["a"] * 2 + ["b"] * 3)
    assert _some([], 3, draw) == []
