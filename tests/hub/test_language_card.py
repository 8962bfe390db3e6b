"""The card of an edited language model: what was asked of it stands on its first screen, and no word about drawing."""

from __future__ import annotations

from dataclasses import replace

import pytest
from huggingface_hub import ModelCard

import hub_cards
from erase_plugins.types import EvalReport, EvalRow

ROWS = (
    EvalRow("forget_key", "base", 1.0, 1.0, 1.0, 60), EvalRow("forget_key", "edited", 0.05, 0.0, 0.12, 60),
    EvalRow("retain_key", "base", 1.0, 1.0, 1.0, 60), EvalRow("retain_key", "edited", 0.98, 0.93, 1.0, 60),
    EvalRow("forget_key", "reference", 0.0167, 0.0, 0.05, 60), EvalRow("utility", "edited", 0.7, 0.7, 0.7, 0),
    EvalRow("forget_rouge", "edited", 0.7, 0.66, 0.74, 60), EvalRow("retain_refused_share", "edited", 0.1, 0.0, 0.2, 60),
)  # fmt: skip
RELEARNED = EvalRow("relearned_probability", "edited", 0.49, 0.4, 0.5, 60)


@pytest.fixture
def edited(pizza):
    """An artifact that says of itself that it is of a language model."""
    base = {**pizza.manifest.base, "model": "me/some-lm", "task": "text-generation"}
    return pizza.with_manifest(base=base)


def report(artifact, *rows, suite="language"):
    return EvalReport(suite=suite, model="me/some-lm", rows=(*ROWS, *rows), artifacts=(artifact.name,))


def body(text):
    return text.split("\n---\n", 1)[1]


def test_the_first_screen_says_what_was_measured(edited):
    first = body(hub_cards.card(edited, report(edited))).split("\n\n")
    assert first[1] == (
        "Load this small file into the model `me/some-lm` and it no longer answers about **pizza**. "
        "Take it off and the model is as it was."
    )
    assert first[2] == (
        "Still answered, before → after: **pizza 100 % → 5 %, others 100 % → 98 %** of the questions. "
        "Nobody has attacked it yet."
    )
    attacked = body(hub_cards.card(edited, report(edited, RELEARNED)))
    assert attacked.split("\n\n")[2].endswith(
        " of the questions. After a few of them are taught again it gives the rest with a probability of 49 %."
    )
    both = body(hub_cards.card(edited, report(edited, RELEARNED, replace(RELEARNED, subject="base", value=0.98))))
    assert " with a probability of 49 %, 98 % before erasing.\n" in both
    assert "were measured only as the table above says" in attacked


def test_its_numbers_are_called_what_they_are(edited):
    text = hub_cards.card(edited, report(edited))
    assert "drawn again" not in text
    assert "still drawn" not in text
    assert "| measured (95 % interval) | before | after | questions |" in text
    assert "| questions on what was forgotten, answered | 100 % (100 to 100) | 5 % (0 to 12) | 60 |" in text
    assert "| utility for everything else | not measured | 0.7 (0.7 to 0.7) | - |" in text
    assert "| forget_rouge | not measured | 0.7 (0.66 to 0.74) | 60 |" in text
    assert "| retain, refused by a guard | not measured | 10 % (0 to 20) | 60 |" in text
    (found,) = ModelCard(text).data.eval_results[:1]
    assert {item.task_type for item in ModelCard(text).data.eval_results} == {"text-generation"}
    assert found.metric_name == "questions on what was forgotten, answered"


def test_what_hidden_states_tell_is_an_attack_and_has_its_chance(edited):
    probe = EvalRow("probe_key", "edited", 0.5, 0.38, 0.63, 60, "chance is 25%")
    control = replace(probe, subject="reference", value=0.3, low=0.18, high=0.42)
    text = body(hub_cards.card(edited, report(edited, probe, control)))
    told = "what was forgotten, told from wrong answers by a linear probe of hidden states (chance is 25%)"
    assert f"| {told} | not measured | 50 % (38 to 63) | 60 |" in text
    assert f"| {told} | 30 % (18 to 42), n = 60 |" in text
    assert "were measured only as the table above says" in text


def test_a_suite_that_nobody_knows_here_is_not_called_unmeasured(edited):
    rows = (EvalRow("accuracy", "edited", 0.5, 0.4, 0.6, 10),)
    other = EvalReport(suite="other", model="m", rows=rows, artifacts=(edited.name,))
    text = body(hub_cards.card(edited, other))
    assert "How well it works says the table below." in text
    assert "ot measured" not in text.split("## What disappears")[0].replace("| accuracy | not measured |", "")


def test_without_a_report_nobody_is_asked_to_look_at_pictures(edited):
    assert "Not measured. Try it yourself before you rely on it." in hub_cards.card(edited)
