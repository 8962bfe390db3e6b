"""The base of methods that train: what a plan decides, what is held, and that everything is put back."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch

from erase_plugins.api import build_request
from erase_plugins.engine.context import RunContext
from erase_plugins.options import option
from erase_plugins.training import TrainedMethod, TrainingOptions
from erase_plugins.workflow.models import target_of

FAST = {"iterations": 4, "trajectories": 2, "harvest": 2, "steps": 3, "batch": 1, "keep_words": 0, "keep_batch": 1}


@dataclass(frozen=True)
class Options(TrainingOptions):
    templates: tuple[str, ...] = option(("{}", "a {}"), "prompts")


class Small(TrainedMethod):
    """Pulls the concept's prediction to the empty prompt's."""

    id, title, paper, summary = "small", "Small", "https://example.org", "for tests"
    families = frozenset({"sd1"})
    Options = Options

    def modules(self, info, options):
        return info.modules("cross_kv")

    def loss(self, run, step):
        states, cond = run.state.batch(run.options.batch, step)
        return run.mean_squares([(states, cond, states.predictions["null"], 1.0), *run.retain(step)])


@pytest.fixture
def target(tiny_sd1):
    return target_of(tiny_sd1(), "tiny")


def planned(target, **arguments):
    return Small().plan(build_request("tiny", "small", "pizza", options=FAST, **arguments), target.info)


def test_the_plan_decides_which_modules_change_and_how_long(target):
    """A hook may take modules out of a plan, or steps."""
    events = []
    whole = planned(target)
    plan = replace(whole, modules=whole.modules[1:3], steps=2)
    edit = Small().run(plan, target, RunContext("small", listeners=(events.append,)))
    assert {f"{component}.{key}" for component, key, _ in edit.items()} == {f"{name}.weight" for name in plan.modules}
    assert [(event.done, event.total) for event in events if "loss" in event.numbers] == [(1, 2), (2, 2)]


@pytest.mark.parametrize(("keep", "parts"), [((), 0), (("guitar",), 1)])
def test_what_is_kept_is_a_term_of_the_loss(target, keep, parts):
    plan = planned(target, keep=keep)
    with Small().prepared(Small().begin(plan, target, RunContext("small"))) as run:
        held = run.retain(0)
        assert len(held) == parts
        for part in held:
            assert set(run.retained.cond.prompts) == {"", "guitar"}
            assert torch.equal(part.wanted, part.states.predictions["prompt"])
            empty = target.encode([""] * len(part.states))
            assert run.retain(0, lambda cond: empty)[0].cond is empty, "as the student sees it"


def test_every_prompt_has_its_trajectories(target):
    run = Small().begin(planned(target), target, RunContext("small"))
    run.phrases.append("pie")
    assert run.prompts() == ["pizza", "pie", "a pizza", "a pie"]
    run.options = replace(run.options, trajectories=5)
    assert run.prompts() == ["pizza", "pie", "a pizza", "a pie"] * 2


def test_a_loss_that_fails_leaves_the_model_as_it_was(target):
    open_now = []

    class Failing(Small):
        def prepare(self, run):
            open_now.append(1)
            run.stack.callback(open_now.clear)
            return super().prepare(run)

        def loss(self, run, step):
            assert open_now
            raise RuntimeError("stop")

    flags = [part.requires_grad for part in target.pipe.unet.parameters()]
    with pytest.raises(RuntimeError, match="stop"):
        Failing().run(planned(target), target, RunContext("small"))
    assert open_now == []
    assert [part.requires_grad for part in target.pipe.unet.parameters()] == flags
    assert not any("forward" in vars(module) for module in target.pipe.unet.modules())
