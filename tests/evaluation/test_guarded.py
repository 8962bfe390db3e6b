"""Guards in front of what a suite measures: what they refuse is not shown, is counted, and ends nothing."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import erase_plugins as ep
from erase_plugins.errors import Blocked
from erase_plugins.evaluation.context import REPORT, run_in_context
from erase_plugins.evaluation.erase_eval.look import look
from erase_plugins.evaluation.erase_eval.metrics import scene_kept
from erase_plugins.evaluation.erase_eval.probe import Probe
from erase_plugins.evaluation.guarded import BLANK, Refusals, labels_of
from erase_plugins.evaluation.prompts import Prompt
from erase_plugins.evaluation.quick import QuickSuite
from erase_plugins.testing.models import shared_pipeline
from erase_plugins.types import EvalReport, ForgetItem
from tests.evaluation.attacks.stub import AXES, StubJudge, tiny_subject

OWL, CAT = AXES["concept"].index("owl"), AXES["concept"].index("cat")


@pytest.fixture
def pipe():
    return shared_pipeline("tiny_sd1")


def guarded(pipe, *words, sees=OWL, **more):
    """A subject behind a keyword guard of "owl" and further words, whose judge sees one thing in every picture."""
    guard = ep.erase(tiny_subject(pipe).target, ForgetItem("owl", prompts=words), "keyword-guard")
    found = tiny_subject(pipe, lambda _picture: sees, artifacts=[guard], images=8, **more)
    found.judge.fingerprint = f"sees {sees}"  # what the base shows is remembered by it
    return found


def measured(subject, suite=None, **more):
    return run_in_context(suite or QuickSuite(), subject, {} if suite else {"reference": ""}, **more)


def rates(report):
    return {(row.metric, row.subject): row.value for row in report.rows}


def test_what_is_refused_is_not_shown_and_the_rest_is_measured(pipe, tmp_path):
    """The judge sees an owl in every picture, and would in the empty one."""
    subject = guarded(pipe)
    report = measured(subject, out=tmp_path / "out")
    found = rates(report)
    assert (found["target_rate", "base"], found["target_rate", "edited"]) == (1.0, 0.0)
    assert (found["target_refused_share", "edited"], found["kept_refused_share", "edited"]) == (1.0, 0.0)
    for name in ("neighbour", "kept"):
        pictures = (subject.drawn[state].pictures[name] for state in ("edited", "base"))
        torch.testing.assert_close(*pictures, msg=f"{name} was drawn otherwise")
    assert any(
        text.startswith("the guard 'erase_owl' refused target 8 of 8, neighbour 0 of 8, kept 0 of 8; what is refused")
        for text in report.warnings
    )
    assert EvalReport.from_dict(json.loads((tmp_path / "out" / REPORT).read_text())).rows == report.rows
    assert subject.note_refused is None and "encode_prompt" not in vars(pipe)


def test_a_kept_prompt_that_is_refused_is_lost(pipe):
    """The judge sees a cat everywhere: half of what is kept is right before, and nothing once cats are refused."""
    report = measured(guarded(pipe, "cat", sees=CAT))
    found, asked = rates(report), report.details["prompts"]
    share = {name: sum("cat" in text for text in asked[name]) / 8 for name in ("neighbour", "kept")}
    assert 0 < share["kept"] < 1
    for name, wanted in share.items():
        assert found[f"{name}_refused_share", "edited"] == pytest.approx(wanted)
        assert found[f"{name}_rate", "base"] == pytest.approx(wanted)
        assert found[f"{name}_rate", "edited"] == 0.0
    assert found["target_refused_share", "edited"] == 1.0


def test_without_a_refusal_nothing_is_told_of_it(pipe):
    for artifacts in (None, [ep.erase(tiny_subject(pipe).target, "owl", "negative-prompt")]):
        report = measured(tiny_subject(pipe, artifacts=artifacts, images=2))
        assert not any("refused" in text for text in (*report.warnings, *(row.metric for row in report.rows)))


def test_a_suite_that_lists_no_prompts_is_told_how_many_were_refused(pipe):
    class Plain:
        id, title, needs = "plain", "Plain", frozenset()

        def run(self, subject):
            pictures = subject.generate(["a owl", "a dog", "two owls"], [0, 1, 2])
            assert [bool((item == BLANK).all()) for item in pictures] == [True, False, True]
            return EvalReport(suite="plain", model="tiny", rows=())

    report = measured(guarded(pipe), Plain())
    assert any("'erase_owl' refused 2 prompts; what is refused" in text for text in report.warnings)
    assert not report.rows


def test_outside_of_a_suite_a_refusal_is_an_error_that_names_the_guard(pipe):
    subject = guarded(pipe)
    with pytest.raises(Blocked, match=r"guard 'erase_owl' blocks a prompt.*owl: keyword.*action=empty"):
        subject.generate(["a owl"], [0])
    assert "encode_prompt" not in vars(pipe), "the guard was left in place"


def test_refusals_are_kept_as_hashes_and_count_once(tmp_path):
    found = Refusals(tmp_path / "refused.jsonl")
    assert found.count == 0 and found.among(["Zorvane"]) == [0]
    for text, seed in (("Zorvane", 1), ("Zorvane", 1), ("Zorvane", 2), ("Ymbrook", 1)):
        found.note(text, seed)
    assert found.count == 3
    assert found.among(["Zorvane", "Harbin", "Ymbrook", "Zorvane"]) == [1, 0, 1, 1]
    assert not any(name in found.place.read_text() for name in ("Zorvane", "Ymbrook"))


def test_a_judge_sees_nothing_in_the_picture_of_a_refused_prompt():
    pictures = torch.full((2, 3, 4, 4), BLANK)
    pictures[1, 0, 0, 0] = 0.0
    assert [item["concept"] for item in labels_of(StubJudge(), pictures)] == ["", "owl"]


# ---- erase-eval ----------------------------------------------------------------------------------------------------


def test_what_is_refused_is_like_nothing_and_nothing_is_in_it(pipe):
    subject = guarded(pipe)
    subject.note_refused = lambda *_: None
    asked = [Prompt(text, seed, {"concept": "owl"}, "concept") for seed, text in enumerate(("a owl", "a cat"))]
    seen = look(subject, {"set": asked})
    assert seen.hits["set"] == [0, 1]
    assert [bool(row.any()) for row in seen.features["set"]] == [False, True]
    sees_all = Probe(np.ones(seen.features["set"].shape[1]), 9.0, 1.0, 0.0, 0.5, 1.0, 1.0)
    assert sees_all.present(seen.features["set"]) == [False, True]
    before = look(subject, {"set": asked}, edit="off").features["set"]
    assert scene_kept(before[:1], seen.features["set"][:1], [False]) == 0.0
    assert scene_kept(before[1:], seen.features["set"][1:], [False]) == pytest.approx(1.0)
