"""An interrupted run goes on only as what it was: other options are refused by name, nothing is lost."""

from __future__ import annotations

import threading

import pytest
import torch

import erase_plugins as ep
from erase_plugins.api import work_folder
from erase_plugins.engine.runner import plan_key
from erase_plugins.errors import RequestError, RunCancelled
from erase_plugins.testing.case import StopAfter
from erase_plugins.testing.tiny import tiny_sd1
from erase_plugins.types import Concept, EditPlan, EraseRequest
from erase_plugins.workflow.models import target_of
from erase_plugins.workflow.run import make_plan, run_plan

OPTIONS = {
    "iterations": 4,
    "trajectories": 2,
    "harvest": 3,
    "steps": 5,
    "keep_words": 0,
    "batch": 2,
    "checkpoint_every": 1,
}


def interrupt(target, out, **changed):
    cancel = threading.Event()

    def listen(event):
        if event.kind == "step" and event.done == 2:
            cancel.set()

    with pytest.raises(RunCancelled):
        ep.erase(target, "pizza", "esd", options=OPTIONS, out=out, listeners=[listen], cancel=cancel, **changed)


@pytest.fixture(scope="module")
def interrupted(pocket_target, tmp_path_factory):
    out = tmp_path_factory.mktemp("made") / "a"
    interrupt(pocket_target, out)
    return out


CHANGES = {
    "option": ({"options": {**OPTIONS, "iterations": 6}}, "iterations 4 then, 6 now"),
    "concept": ({"concepts": ["dog"]}, "erase pizza then, dog now"),
    "keep": ({"keep": ["dog"]}, "keep nothing then, dog now"),
    "seed": ({"seed": 3}, "seed 0 then, 3 now"),
}


@pytest.mark.parametrize(("changed", "words"), CHANGES.values(), ids=CHANGES)
def test_other_options_are_refused_and_named(pocket_target, interrupted, changed, words):
    before = {item.name: item.read_bytes() for item in work_folder(interrupted).iterdir()}
    arguments = {"concepts": ["pizza"], "method": "esd", "options": OPTIONS, **changed}
    with pytest.raises(RequestError, match="the interrupted run was asked something else") as caught:
        ep.erase(pocket_target, **arguments, out=interrupted, resume=True)
    assert words in str(caught.value)
    assert {item.name: item.read_bytes() for item in work_folder(interrupted).iterdir()} == before


def test_the_same_options_go_on(pocket_target, tmp_path):
    interrupt(pocket_target, tmp_path / "a")
    notes = []
    ep.erase(
        pocket_target, "pizza", "esd", options=OPTIONS, out=tmp_path / "a", resume=True,
        listeners=[lambda event: notes.append(event.message) if event.kind == "note" else None],
    )  # fmt: skip
    assert "resume: step 2" in notes
    assert not work_folder(tmp_path / "a").exists()


def test_a_checkpoint_without_a_record_is_told_when_it_is_of_another_run(pocket_target, tmp_path):
    """Checkpoints of earlier versions have no record beside them."""
    interrupt(pocket_target, tmp_path / "a")
    (work_folder(tmp_path / "a") / "checkpoint.json").unlink()
    notes = []
    ep.erase(
        pocket_target, "pizza", "esd", options={**OPTIONS, "iterations": 3}, out=tmp_path / "a", resume=True,
        listeners=[lambda event: notes.append(event.message) if event.kind == "note" else None],
    )  # fmt: skip
    assert "the checkpoint found here is damaged, of another run or of another base; starting anew" in notes


def test_training_does_not_go_on_from_another_base(tmp_path):
    """The folder of a model may hold another one by then."""

    def notes_of(scale):
        pipe, notes = tiny_sd1(), []
        with torch.no_grad():
            for part in pipe.unet.parameters():
                part.mul_(scale)
        target = target_of(pipe, "model")
        options = {**OPTIONS, "iterations": 6}
        plan = make_plan(EraseRequest("model", (Concept("dog"),), "esd", options=options), target.info)
        stop = StopAfter("checkpoint")
        listen = lambda event: notes.append(event.message) if event.kind == "note" else None  # noqa: E731
        with pytest.raises(RunCancelled):
            run_plan(plan, target, work=tmp_path, resume=True, listeners=(stop, listen), cancel=stop.cancel)
        return notes

    notes_of(1.0)
    assert any("of another base" in text for text in notes_of(1.3))
    assert any(text.startswith("resume: step") for text in notes_of(1.3))


def test_training_does_not_go_on_from_other_pictures_of_the_same_name(tmp_path):
    file = tmp_path / "dog.png"
    plan = EditPlan(EraseRequest("model", (Concept("dog", images=(str(file),)),), "esd"), {}, ())
    file.write_bytes(b"one")
    first = plan_key(plan)
    assert plan_key(plan) == first
    file.write_bytes(b"other")
    assert plan_key(plan) != first
