"""An interrupted run goes on only as what it was: other options are refused by name, nothing is lost."""

from __future__ import annotations

import threading

import pytest

import erase_plugins as ep
from erase_plugins.api import work_folder
from erase_plugins.errors import RequestError, RunCancelled

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
    assert "the checkpoint found here is damaged or of another run; starting anew" in notes
