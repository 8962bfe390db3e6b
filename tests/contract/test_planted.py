"""The contract suite accepts honest methods and catches each planted violation by the check that is made for it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import pytest
import torch

from erase_plugins.artifacts.edit import AddOn, Dense, Edit, LowRank
from erase_plugins.errors import NotFiniteError
from erase_plugins.manager import get_manager
from erase_plugins.options import option
from erase_plugins.testing.contract import contract_report
from tests.contract.reference_methods import Plugin, RandomLowRank, RandomOptions, StepByStep

NAME = "planted"
QUICK = ("edit_is_valid", "run_leaves_the_model_alone", "remove_restores")


def report_of(method, model="tiny_sd1", only=()):
    """Failed checks with their reasons."""
    with get_manager().temporary(Plugin(method), "planted-plugin"):
        return contract_report(method.id, model, only=only)


@pytest.mark.parametrize("model", ["tiny_sd1", "tiny_sdxl"])
@pytest.mark.parametrize("method", [RandomLowRank(), StepByStep()], ids=lambda method: method.id)
def test_honest_methods_pass(method, model):
    assert report_of(method, model) == {}


class ChangesBase(RandomLowRank):
    id = NAME

    def run(self, plan, target, ctx):
        ref = target.modules("cross_kv")[0]
        target.weight(ref).add_(1e-7)
        target.forget()
        return super().run(plan, target, ctx)


class Hangs(RandomLowRank):
    """Leaves a forward hook behind."""

    id = NAME

    def run(self, plan, target, ctx):
        target.module(target.modules("cross_kv")[0]).register_forward_hook(lambda *_: None)
        return super().run(plan, target, ctx)


class GlobalNoise(RandomLowRank):
    """Draws from the process-wide generator."""

    id = NAME

    def deltas(self, plan, target, ctx):
        ref = target.modules("cross_kv")[0]
        return {ref.component: {ref.weight: Dense(torch.randn(ref.shape) * 0.01)}}

    produces = frozenset({"dense"})


class Counting(RandomLowRank):
    """Depends on how often it was run."""

    id = NAME
    runs = 0

    def deltas(self, plan, target, ctx):
        self.runs += 1
        found = super().deltas(plan, target, ctx)
        return {key: {name: delta.scaled(self.runs) for name, delta in group.items()} for key, group in found.items()}


class NotANumber(RandomLowRank):
    id = NAME

    def deltas(self, plan, target, ctx):
        found = super().deltas(plan, target, ctx)
        next(iter(next(iter(found.values())).values())).A[0, 0] = float("nan")
        return found


class NotOffAtZero(RandomLowRank):
    """Carries an added module; the runtime class of the test below ignores the strength."""

    id = NAME
    produces = frozenset({"addon"})

    def deltas(self, plan, target, ctx):
        ref = target.modules("cross_v")[0]
        size = ref.shape[0]
        return {ref.component: {ref.path: AddOn(NAME, {"bias": torch.full((size,), 0.1)}, {})}}


class Undeclared(RandomLowRank):
    id = NAME
    produces = frozenset({"dense"})


class NoEffect(RandomLowRank):
    id = NAME

    def deltas(self, plan, target, ctx):
        found = super().deltas(plan, target, ctx)  # too small to reach a weight; a change of zero is refused by itself
        return {key: {name: delta.scaled(1e-30) for name, delta in group.items()} for key, group in found.items()}


class WrongShape(RandomLowRank):
    id = NAME

    def deltas(self, plan, target, ctx):
        ref = target.modules("cross_kv")[0]
        return {ref.component: {ref.weight: LowRank(torch.ones(1, 3), torch.ones(ref.shape[0], 1))}}


class WritesFiles(RandomLowRank):
    id = NAME

    def run(self, plan, target, ctx):
        if ctx.work is not None:
            (ctx.work / "cache.bin").write_text("side file")
        return super().run(plan, target, ctx)


class WritesPickles(WritesFiles):
    id = NAME
    work_files = ("cache.*",)


class WritesHere(RandomLowRank):
    id = NAME

    def run(self, plan, target, ctx):
        with open("log.txt", "w") as file:
            file.write("x")
        return super().run(plan, target, ctx)


class PlanWrites(RandomLowRank):
    id = NAME

    def plan(self, request, info):
        with open("plan.txt", "w") as file:
            file.write("x")
        return super().plan(request, info)


class PlanVaries(RandomLowRank):
    id = NAME
    count = 0

    def plan(self, request, info):
        self.count += 1
        return dataclasses.replace(super().plan(request, info), seconds=float(self.count))


class PlanNotJson(RandomLowRank):
    id = NAME

    def plan(self, request, info):
        return dataclasses.replace(super().plan(request, info), extra={"ref": info.refs[0]})


class Deaf(RandomLowRank):
    """Never reports a step, so it cannot be cancelled."""

    id = NAME

    def run(self, plan, target, ctx):
        return Edit(target.family.id, self.deltas(plan, target, ctx))


class ResumesWrong(StepByStep):
    """Forgets its momentum on resume."""

    id = NAME

    def run(self, plan, target, ctx):
        found = ctx.resumed

        def forgetful(key):
            state = found(key)
            if state is not None:
                for name, tensor in state[1].items():
                    if name.startswith("momentum"):
                        tensor.zero_()
            return state

        ctx.resumed = forgetful
        return super().run(plan, target, ctx)


class NeverResumes(StepByStep):
    id = NAME

    def run(self, plan, target, ctx):
        ctx.resumed = lambda key: None
        return super().run(plan, target, ctx)


class AcceptsAnything(RandomLowRank):
    """Does not resolve its options, so bad values are noticed too late."""

    id = NAME

    def plan(self, request, info):
        plain = super().plan(dataclasses.replace(request, options={}), info)
        return dataclasses.replace(plain, request=request, options={**plain.options, **request.options})


@dataclass(frozen=True)
class NoHelp(RandomOptions):
    secret: bool = option(False, "")


@dataclass(frozen=True)
class NoBounds(RandomOptions):
    amount: float = option(1.0, "how much of it")


@dataclass(frozen=True)
class BadDefault(RandomOptions):
    amount: int = option(0, "how many of them", low=1)


@dataclass(frozen=True)
class BadProfileDefault(RandomOptions):
    amount: int = option(1, "how many of them", low=1, per={"sdxl": -1})


def with_options(options):
    return type("Undocumented", (RandomLowRank,), {"id": NAME, "Options": options})


CASES = [
    (ChangesBase, "run_leaves_the_model_alone", "the run changed the base model"),
    (Hangs, "run_leaves_the_model_alone", "hooks"),
    (GlobalNoise, "run_is_deterministic", "ctx.generator"),
    (GlobalNoise, "run_leaves_the_model_alone", "global random generators"),
    (Counting, "run_is_deterministic", "differs between two runs"),
    (NotANumber, "edit_is_valid", "NaN"),
    (Undeclared, "edit_is_valid", "does not declare"),
    (NoEffect, "edit_has_an_effect", "no effect"),
    (WrongShape, "edit_is_valid", "weight is"),
    (WritesFiles, "run_writes_no_files", "undeclared files: cache.bin"),
    (WritesPickles, "run_writes_no_files", "only safetensors and JSON"),
    (WritesHere, "run_writes_no_files", "working directory: log.txt"),
    (PlanWrites, "plan_is_pure", "plan.txt"),
    (PlanVaries, "plan_is_pure", "two different plans"),
    (PlanNotJson, "plan_survives_json", "JSON"),
    (Deaf, "run_reports_progress", "ctx.step"),
    (Deaf, "cancel_leaves_nothing", "it was accepted"),
    (ResumesWrong, "resume_equals_uninterrupted", "differs after resuming"),
    (NeverResumes, "resume_equals_uninterrupted", "did not resume"),
    (AcceptsAnything, "bad_options_are_refused", "it was accepted"),
    (with_options(NoHelp), "options_are_documented", "option secret has no help"),
    (with_options(NoBounds), "options_are_documented", "option amount has neither low nor high"),
    (with_options(BadDefault), "options_are_documented", "below its minimum"),
    (with_options(BadProfileDefault), "options_are_documented", "default for sdxl -1 is below"),
]


@pytest.mark.parametrize(("bad", "check", "words"), CASES, ids=[f"{bad.__name__}-{check}" for bad, check, _ in CASES])
def test_planted_violation_is_caught(bad, check, words):
    reasons = report_of(bad(), only=[check])
    assert list(reasons) == [check]
    assert words in reasons[check]


def test_addon_that_is_not_off_at_strength_zero(monkeypatch):
    from erase_plugins.runtime import addons

    class Always(addons.AttachedAddOn):
        def _add(self, _module, _args, output):
            return output + 0.1

    monkeypatch.setitem(addons.ADDON_TYPES, NAME, lambda addon: torch.nn.Identity())
    monkeypatch.setattr(addons, "AttachedAddOn", Always)
    reasons = report_of(NotOffAtZero(), only=["strength_zero_is_identity"])
    assert "strength 0 is not the base model" in reasons["strength_zero_is_identity"]


def test_an_effect_that_hides_its_gradient(monkeypatch):
    from erase_plugins.runtime import addons

    class Hidden(torch.nn.Module):
        def forward(self, output):
            return -0.9 * output.detach()

    monkeypatch.setitem(addons.ADDON_TYPES, NAME, lambda addon: Hidden())
    reasons = report_of(NotOffAtZero(), only=["gradient_is_that_of_the_effect"])
    assert "do not see what the edit does" in reasons["gradient_is_that_of_the_effect"]


def test_a_bad_method_does_not_spoil_the_shared_model():
    assert "run_leaves_the_model_alone" in report_of(ChangesBase(), only=QUICK)
    assert "run_leaves_the_model_alone" in report_of(Hangs(), only=QUICK)
    assert report_of(RandomLowRank(), only=QUICK) == {}


def test_nan_is_refused_and_nothing_is_written(tmp_path):
    from erase_plugins.api import erase
    from erase_plugins.testing.models import shared_pipeline

    with get_manager().temporary(Plugin(NotANumber())), pytest.raises(NotFiniteError, match="NaN"):
        erase(shared_pipeline("tiny_sd1"), "pizza", NAME, out=tmp_path / "out")
    assert [item.name for item in tmp_path.iterdir() if not item.name.startswith(".")] == []
