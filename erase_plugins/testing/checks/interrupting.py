"""Cancelling leaves nothing half written; a method with checkpoints resumes to the same bits."""

from __future__ import annotations

import torch

from erase_plugins.errors import RunCancelled
from erase_plugins.testing.case import Case, StopAfter, scratch
from erase_plugins.testing.checks import check, refused
from erase_plugins.testing.models import changed_since
from erase_plugins.testing.observe import snapshot


@check
def cancel_leaves_nothing(case: Case) -> None:
    """A cancelled run raises `RunCancelled`, writes no artifact and restores the model."""
    pipe = case.pipe
    before = snapshot(pipe)
    with scratch() as folder:
        stop = StopAfter("step")
        call = lambda: case.erase(folder / "out", listeners=(stop,), cancel=stop.cancel)  # noqa: E731
        refused(RunCancelled, call, "a run that is cancelled at its first step")
        left = sorted(item.name for item in folder.iterdir() if not item.name.startswith(".out.work"))
    assert not left, f"a cancelled run left {', '.join(left)}"
    difference = changed_since(pipe, before)
    assert not difference, f"a cancelled run left the model changed: {difference}"


@check
def resume_equals_uninterrupted(case: Case) -> None:
    """Stopped at its first checkpoint and resumed, a run ends in the same bits; without checkpoints it begins anew."""
    whole, checkpoints = case.artifact, case.observed.checkpoints
    with scratch() as folder:
        stop, again = StopAfter("checkpoint" if checkpoints else "step"), StopAfter("never")
        call = lambda: case.run(work=folder, listeners=(stop,), cancel=stop.cancel)  # noqa: E731
        refused(RunCancelled, call, f"a run that is cancelled after its first {stop.kind}")
        resumed = case.run(work=folder, resume=True, listeners=(again,))
    notes = [
        event.message for event in again.seen if event.kind == "note" and event.message.startswith("resume: step ")
    ]
    assert notes or not checkpoints, (
        "the second run did not resume; ask ctx.resumed(key) with the key that ctx.checkpoint was given"
    )
    first, second = list(whole.edit.items()), list(resumed.edit.items())
    assert [item[:2] for item in first] == [item[:2] for item in second], "the resumed run changes other parameters"
    for (component, key, delta), (_, _, other) in zip(first, second, strict=True):
        for name, tensor in delta.tensors().items():
            same = torch.equal(tensor, other.tensors()[name])
            assert same, f"{component} {key}: {name} differs after resuming; checkpoint optimiser and generator state"
    done = [event.done for event in again.seen if event.kind == "step"]
    assert len(done) < len(case.observed.steps) or not checkpoints, "the resumed run did every step again"
