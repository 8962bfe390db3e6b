"""What a running method may ask a judge, with the embedded model and its judge."""

from __future__ import annotations

import pytest
import torch

import erase_plugins as ep
from erase_plugins.errors import Unsupported
from erase_plugins.evaluation.shares import target_rate
from erase_plugins.testing.observe import snapshot
from erase_plugins.workflow.models import target_of
from erase_plugins.workflow.run import judges


def test_the_rate_is_high_for_no_change_low_for_an_erasure_and_nothing_stays(pocket_target):
    edit, before = ep.erase(pocket_target, "pizza", "uce").edit, snapshot(pocket_target.pipe)
    rate = target_rate(pocket_target, ["pizza"], judges())
    assert rate(edit.scaled(0.0), 4) >= 0.75
    left = rate(edit, 4)
    assert left <= 0.25
    assert rate(edit, 4) == left
    assert not before.difference(snapshot(pocket_target.pipe))


def test_pictures_are_shared_out_among_the_concepts(pocket_target):
    edit = ep.erase(pocket_target, "pizza", "uce").edit
    assert 0.25 <= target_rate(pocket_target, ["pizza", "tiger"], judges())(edit, 4) <= 0.75


def test_unknown_concepts_and_models_are_refused_before_any_work(pocket_target, tiny_sd1, monkeypatch):
    options = {"stop_at": 0.1}
    monkeypatch.setattr(torch.optim, "Adam", None)  # nothing may be trained
    with pytest.raises(Unsupported, match="judge that knows quux in pictures of pocket"):
        ep.erase(pocket_target, "quux", "few-shot", options=options)
    with pytest.raises(Unsupported, match="judge that knows pizza"):
        ep.erase(target_of(tiny_sd1(), "tiny"), "pizza", "few-shot", options=options)
    with pytest.raises(Unsupported, match="different kinds"):
        ep.erase(pocket_target, ["pizza", "noto"], "esd", options=options)


def test_a_run_ends_where_the_judge_is_content(pocket_target):
    notes = []
    artifact = ep.erase(
        pocket_target, "pizza", "few-shot",
        options={"iterations": 6, "draw": 1, "batch": 1, "keep_words": 2, "keep_batch": 2, "aliases": False,
                 "stop_at": 1.0, "check_every": 2, "check_pictures": 4},
        listeners=[lambda event: notes.append(event.message)],
    )  # fmt: skip
    numbers = artifact.manifest.extra["numbers"]
    assert (numbers["stopped_after"], numbers["checks"]) == (2, 1)
    assert any(text.startswith("stopped after 2 steps") for text in notes)
