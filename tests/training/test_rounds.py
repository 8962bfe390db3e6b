"""Search rounds: what a token is learned from, when it is learned, where it then stands, and that it survives a kill."""

from __future__ import annotations

import pytest
import torch

from erase_plugins.api import build_request
from erase_plugins.engine.context import RunContext
from erase_plugins.engine.inversion import LearnedRows, Lessons, learn_rows, slots, start_rows
from erase_plugins.engine.loop import Schedule
from erase_plugins.errors import RequestError, RunCancelled
from erase_plugins.manager import get_manager
from erase_plugins.testing.models import changed_since
from erase_plugins.testing.observe import snapshot
from erase_plugins.training.rounds import Together
from erase_plugins.workflow.models import target_of
from tests.methods.runs import begun, prepared

FAST = {
    "iterations": 6, "trajectories": 2, "harvest": 2, "steps": 4, "keep_words": 0, "batch": 3, "precision": "float32",
    "templates": "{},a {}", "inversion_steps": 3, "inversion_batch": 2, "inversion_pictures": 2,
    "adversarial_rounds": 2, "rank": 4,
}  # fmt: skip


@pytest.fixture
def target(tiny_sd1):
    return target_of(tiny_sd1(), "tiny")


def run_of(target, concepts="pizza", method="esd", **options):
    return begun(target, build_request("tiny", method, concepts, options={**FAST, **options}))


def test_tokens_come_at_equal_distances_and_stand_as_often_as_the_name(target):
    with prepared(run := run_of(target, templates="a {}")):
        rounds, plain = run.carried, target.encode(["a pizza"] * 3)
        assert rounds.starts == [2, 4]
        assert torch.equal(rounds.put(1, plain).embeds, plain.embeds)
        for step, found, name in ((2, 1, 2), (4, 2, 1)):  # batches of three
            one = rounds.put(step, plain)
            names = sum(torch.equal(row, plain.embeds[0]) for row in one.embeds)
            assert (len(rounds.tensors()), names) == (found, name)
            assert one.last == plain.last  # one row for a word of one token
        two = rounds.tensors()
        assert not torch.equal(two["0.0"], two["1.0"])


def test_learned_rows_lower_the_denoising_loss_and_nothing_else_moves(target):
    """Measured at the same noises before and after; the first loss is that of the rows as they begin."""
    for name, part in target.pipe.unet.named_parameters():
        part.data *= 8 if "attn2.to_v" in name or "attn2.to_out.0.weight" in name else 1
    before = snapshot(target.pipe)
    ctx = RunContext("test")
    latents = torch.randn((4, *target.info.latent_shape), generator=torch.Generator().manual_seed(0))
    learned, where = LearnedRows(target, start_rows(target, ["object"], 1)), slots(target, ["a {}"] * 4, "{}", 1)
    lessons = Lessons.of(target, latents, 4, ctx)

    @torch.no_grad()
    def measured():
        return float(sum(lessons.loss(step, learned.encode(where, lessons.picks(step))) for step in range(8)))

    first = measured()
    losses = learn_rows(learned, where, lessons, Schedule(60, 0.1), ctx, "")
    assert len(losses) == 60 and measured() < first
    assert not changed_since(target.pipe, before)


@pytest.mark.parametrize("schedule", [Schedule(3, 0.0), Schedule(0, 0.1)])
def test_a_rate_of_0_and_no_step_leave_the_rows_bit_by_bit(target, schedule):
    ctx, start = RunContext("test"), start_rows(target, ["object"], 2)
    learned, where = LearnedRows(target, start), slots(target, ["a {}"] * 2, "{}", 2)
    lessons = Lessons.of(target, torch.randn((2, *target.info.latent_shape)), 2, ctx)
    learn_rows(learned, where, lessons, schedule, ctx, "")
    assert torch.equal(learned.rows, start)


@pytest.mark.parametrize("method", ["esd", "receler"])
def test_what_is_carried_comes_back_from_a_checkpoint(target, method):
    more = {"rank": 4, "adversarial_rows": 2, "adversarial_steps": 2, "stand_in": 0} if method == "receler" else {}
    with prepared(run := run_of(target, method=method, **more)) as loss:
        loss(5)
        kept = {name: part.clone() for name, part in run.carried.tensors().items()}
    with prepared(other := run_of(target, method=method, **more)):
        other.carried.load(kept)
        again = other.carried.tensors()
        assert again.keys() == kept.keys() and all(torch.equal(again[name], part) for name, part in kept.items())


def test_each_concept_meets_its_own_token(target):
    with prepared(run := run_of(target, ["pizza", "dog"], adversarial_rounds=1)):
        rounds = run.carried
        cond = target.encode(["a pizza", "a pizza", "a dog", "a dog"])
        rounds.put(3, cond)
        found = rounds.put(4, cond).embeds  # the name first, then the token
        own = [rounds.search.encoded(rounds.tensors()[f"0.{number}"]).embeds[1] for number in (0, 1)]
        assert torch.equal(found[1], own[0]) and torch.equal(found[3], own[1])
        assert torch.equal(found[0], cond.embeds[0]) and torch.equal(found[2], cond.embeds[2])


def test_refusals(target):
    with (
        pytest.raises(RequestError, match="do not fit into 6 training steps"),
        prepared(run_of(target, adversarial_rounds=6)),
    ):
        pass
    with pytest.raises(RequestError, match="erase_from"):
        run_of(target, erase_from="a pizza on a table")


def test_together_keeps_names_apart():
    class Part:
        def __init__(self, value):
            self.value = value

        def tensors(self):
            return {"x.y": self.value}

        def load(self, tensors):
            self.value = tensors["x.y"]

    both = Together({"a": Part(torch.ones(1)), "b": Part(torch.zeros(1))})
    other = Together({"a": Part(torch.zeros(1)), "b": Part(torch.ones(1))})
    other.load(both.tensors())
    assert float(other.parts["a"].value) == 1 and float(other.parts["b"].value) == 0


def test_a_run_killed_between_two_rounds_ends_as_if_it_had_not_been(target, tmp_path):
    method, asked = get_manager().method("esd"), build_request("tiny", "esd", "pizza", options=FAST)
    plan = method.plan(asked, target.info)
    whole = method.run(plan, target, RunContext("esd"))

    def stop(event):
        if event.kind == "step" and event.done == 3:
            first.cancel.set()

    first = RunContext("esd", work=tmp_path, listeners=(stop,))
    with pytest.raises(RunCancelled):
        method.run(plan, target, first)
    again = method.run(plan, target, RunContext("esd", work=tmp_path, resume=True))
    for (_, _, one), (_, _, other) in zip(whole.items(), again.items(), strict=True):
        assert all(torch.equal(part, other.tensors()[name]) for name, part in one.tensors().items())
