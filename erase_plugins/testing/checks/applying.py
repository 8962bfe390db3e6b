"""Applied, an edit changes something, is switched off and undone to the last bit, and refuses other models."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from erase_plugins.errors import BaseMismatch, Unsupported
from erase_plugins.testing.case import Case
from erase_plugins.testing.checks import check, refused
from erase_plugins.testing.models import changed_since, other_models, shared_pipeline
from erase_plugins.testing.observe import applied_predictions, predictions, snapshot

#: float32 rounding of one denoiser pass, relative to the size of its output
TOLERANCE = 1e-4


def closeness(first: Any, second: Any) -> float:
    """Largest difference relative to the largest value."""
    return float((first - second).abs().max() / first.abs().max().clamp_min(1e-12))


@check
def edit_has_an_effect(case: Case) -> None:
    """At strength 1 the prediction differs, and stays finite."""
    base, edited = predictions(case.pipe), case.edited
    assert bool(torch.isfinite(edited).all()), "the edited model predicts NaN or infinity"
    assert closeness(base, edited) > 0, "the edit has no effect on the prediction"


@check
def strength_zero_is_identity(case: Case) -> None:
    """At strength 0 predictions are those of the base, bit for bit, also after strength was 1."""
    from erase_plugins.workflow.applying import apply

    base = predictions(case.pipe)
    assert torch.equal(applied_predictions(case.pipe, case.artifact, 0.0), base), "strength 0 is not the base model"
    with apply(case.pipe, case.artifact, 1.0) as handle:
        handle.set_strength(0.0)
        assert torch.equal(predictions(case.pipe), base), "strength set from 1 to 0 is not the base model"


@check
def remove_restores(case: Case) -> None:
    """After remove() all weights, hooks and predictions are as before, bit for bit."""
    pipe, artifact = case.pipe, case.artifact
    before, base = snapshot(pipe), predictions(pipe)
    applied_predictions(pipe, artifact)
    difference = changed_since(pipe, before)
    assert not difference, f"remove() left a trace: {difference}"
    assert torch.equal(predictions(pipe), base), "predictions differ after remove()"


@check
def fuse_equals_apply(case: Case) -> None:
    """Fused weights predict what the applied edit predicts; what cannot be fused says so."""
    from erase_plugins.workflow.applying import apply

    expected, pipe = case.edited, case.fresh()
    handle = apply(pipe, case.artifact)
    if "addon" in case.artifact.edit.kinds:
        refused(Unsupported, handle.fuse, "fusing added modules")
        return
    handle.fuse()
    distance = closeness(expected, predictions(pipe))
    assert distance <= TOLERANCE, f"fused and applied predictions differ by {distance:.2e}"


@check
def other_models_are_refused(case: Case) -> None:
    """Other weights and another family raise `BaseMismatch` and stay untouched."""
    from erase_plugins.workflow.applying import apply

    for name, seed in other_models(case.model):
        pipe = shared_pipeline(name, seed)
        before = snapshot(pipe)
        what = f"applying an artifact of {case.model} to {name} with other weights"
        refused(BaseMismatch, partial(apply, pipe, case.artifact), what)
        difference = changed_since(pipe, before)
        assert not difference, f"the refused artifact changed {name}: {difference}"
