"""What a suite or an attack is given: the model with the edit on, off or destroyed, and a judge only where one is needed."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import erase_plugins as ep
from erase_plugins import hookimpl
from erase_plugins.errors import EraseError, RequestError, Unsupported
from erase_plugins.manager import get_manager
from erase_plugins.types import EvalReport, EvalRow
from erase_plugins.workflow.measure import open_subject

ASKED = (["a pizza", "a dog"], [3, 4])


class Bare:
    """Measures the mean brightness and asks nobody."""

    id, title, needs = "bare", "Brightness", frozenset()
    needs_judge = False

    def run(self, subject, ctx):
        assert subject.judge is None
        value = float(subject.generate(*ASKED, edit="off").mean())
        return EvalReport(self.id, subject.model, (EvalRow("brightness", "base", value, value, value, 2),))


@pytest.fixture(scope="module")
def artifact(pocket_target):
    return ep.erase(pocket_target, "pizza")


@pytest.fixture
def subject(pocket_pipe, artifact):
    return open_subject(pocket_pipe, [artifact], None, steps=3)


def test_on_off_and_destroyed_are_what_they_say(subject, artifact, pocket_pipe):
    off = subject.generate(*ASKED, edit="off")
    on, half = subject.generate(*ASKED), subject.generate(*ASKED, strength=0.5)
    destroyed = subject.generate(*ASKED, edit="destroyed")
    assert subject.queries == 8
    assert off.shape == (2, 3, 64, 64)
    assert torch.equal(off, subject.draw(*ASKED))
    with ep.apply(pocket_pipe, artifact, 1.0):
        assert torch.equal(on, subject.draw(*ASKED))
    with ep.apply(pocket_pipe, artifact, 0.5):
        assert torch.equal(half, subject.draw(*ASKED))
    assert min((off - on).abs().mean(), (on - half).abs().mean()) > 0.01
    assert (off - destroyed).abs().mean((1, 2, 3)).min() > 0.01
    assert torch.equal(off, subject.generate(*ASKED, edit="off")), "the model was left changed"


@pytest.mark.parametrize("wrong", [{"edit": "maybe"}, {"edit": "off", "strength": 0.5}])
def test_unknown_states_are_refused(subject, wrong):
    with pytest.raises(RequestError, match="edit is on \\(with a strength\\), off or destroyed"):
        subject.generate(*ASKED, **wrong)


def test_off_is_never_asked_where_the_edit_is_on(subject):
    with subject.edited(), pytest.raises(RequestError, match="inside of a with-block \\(edited\\); use draw"):
        subject.generate(*ASKED, edit="off")
    assert subject.generate(*ASKED, edit="off").shape[0] == 2


class Planted:
    def __init__(self, suites=(), judges=()):
        self.suites, self.judges = suites, judges

    @hookimpl
    def erase_suites(self):
        return list(self.suites)

    @hookimpl
    def erase_judges(self):
        return list(self.judges)


def test_a_suite_without_judge_measures_a_model_that_no_judge_knows(tiny_sd1):
    with get_manager().temporary(Planted([Bare()]), "planted"):
        report = ep.evaluate(tiny_sd1(), [], "bare", steps=2)
        assert report.row("brightness", "base").n == 2
        with pytest.raises(RequestError, match="suite bare asks no judge; leave out judge pocket"):
            ep.evaluate(tiny_sd1(), [], "bare", judge="pocket")
    with pytest.raises(Unsupported, match="no registered judge knows"):
        ep.evaluate(tiny_sd1(), [], "quick", erased=["pizza"], steps=2)


def test_a_judge_of_another_modality_is_never_asked_about_pictures(tiny_sd1):
    class Reader:
        id, title, needs, modality = "reader", "Reader", frozenset(), "text"
        axes, fingerprint = {"concept": ("pizza",)}, "0"

        def accepts(self, info):
            return True

        def score(self, images):
            raise AssertionError

        def world(self):
            raise AssertionError

    with get_manager().temporary(Planted(judges=[Reader()]), "planted"):
        with pytest.raises(Unsupported, match=r"no registered judge knows .* \(registered: pocket, .*reader\)"):
            ep.evaluate(tiny_sd1(), [], "quick", erased=["pizza"])
        with pytest.raises(Unsupported, match="judge 'reader' looks at text, and this model makes images"):
            ep.evaluate(tiny_sd1(), [], "quick", erased=["pizza"], judge="reader")


def test_an_artifact_that_cannot_be_applied_leaves_the_subject_usable(subject, artifact):
    broken = dataclasses.replace(subject, artifacts=[artifact, artifact])
    with pytest.raises(EraseError), broken.edited():
        pass
    assert len(broken.generate(*ASKED, edit="off")) == 2


def test_what_an_artifact_says_when_it_is_applied_stands_in_the_report(pocket_pipe):
    guard = ep.erase(pocket_pipe, "pizza", method="negative-prompt")
    report = ep.evaluate(pocket_pipe, [guard], "quick", images=1, steps=1)
    assert any("nothing is removed from the weights" in text for text in report.warnings)


def test_a_guard_that_blocks_is_measured_by_what_it_lets_through(pocket_pipe):
    guard = ep.erase(pocket_pipe, "pizza", method="keyword-guard")
    report = ep.evaluate(pocket_pipe, [guard], "quick", images=2, steps=4)
    assert report.row("target_rate", "base").value == 1.0 and report.row("target_rate", "edited").value == 0.0
    assert report.row("kept_rate", "edited").value == report.row("kept_rate", "base").value
    assert pocket_pipe("a pizza", num_inference_steps=1).images, "the guard was left in place"
