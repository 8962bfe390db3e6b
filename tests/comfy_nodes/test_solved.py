"""Edits are remembered for the same question about the same model only."""

from __future__ import annotations

import gc
from types import SimpleNamespace

import pytest

from comfy_nodes import solved


class Thing:
    """Can be referred to weakly."""


def pair():
    model = SimpleNamespace(model=Thing(), patches_uuid="a")
    return model, SimpleNamespace(patcher=SimpleNamespace(patches_uuid="b"), layer_idx=None, cond_stage_model=Thing())


@pytest.fixture(autouse=True)
def empty(monkeypatch):
    monkeypatch.setattr(solved, "_ENTRIES", type(solved._ENTRIES)())


def ask(model, clip, question=("uce",)):
    answers = []
    found = solved.solved(model, clip, question, lambda: answers.append(1) or object())
    return found, len(answers)


def test_the_same_question_is_answered_once():
    model, clip = pair()
    first, made = ask(model, clip)
    assert made == 1
    assert ask(model, clip) == (first, 0)


@pytest.mark.parametrize("change", ["patches", "clip patches", "clip skip", "question", "model"])
def test_anything_else_is_solved_again(change):
    model, clip = pair()
    first, _ = ask(model, clip)
    question = ("rece",) if change == "question" else ("uce",)
    if change == "patches":
        model.patches_uuid = "c"
    if change == "clip patches":
        clip.patcher.patches_uuid = "c"
    if change == "clip skip":
        clip.layer_idx = -2
    if change == "model":
        model.model = Thing()
    found, made = ask(model, clip, question)
    assert made == 1
    assert found is not first


def test_few_entries_are_kept_and_models_are_not_kept_alive():
    model, clip = pair()
    for number in range(10):
        ask(model, clip, (number,))
    assert len(solved._ENTRIES) == 4
    refs = next(iter(solved._ENTRIES.values()))[0]
    del model, clip
    gc.collect()
    assert [ref() for ref in refs] == [None, None]
