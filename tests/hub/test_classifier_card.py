"""The card of an edited classifier: its own table, numbers of the run without a report, no word about drawing."""

from __future__ import annotations

from dataclasses import replace

import pytest

import erase_plugins as ep
import hub_cards
from erase_plugins.types import EvalReport, EvalRow
from tests import classifiers


@pytest.fixture(scope="module")
def edited(tmp_path_factory):
    place = tmp_path_factory.mktemp("card")
    folder = classifiers.small(place / "model")
    options = {"epochs": 2, "epoch_steps": 2, "warmup": 0}
    return ep.erase(str(folder), ["three"], "gs-lora", kind="class", options=options, out=place / "a")


def report(name, *more):
    rows = [("target_rate", "base", 1.0), ("target_rate", "edited", 0.025), ("kept_rate", "base", 0.95),
            ("kept_rate", "edited", 0.94), *more]  # fmt: skip
    return EvalReport(
        suite="classifier", model="m", rows=tuple(EvalRow(a, b, c, c, c, 40) for a, b, c in rows), artifacts=(name,)
    )


def test_without_a_report_the_run_speaks(edited, plugin):
    text = hub_cards.card(edited, license="mit")
    numbers = edited.manifest.extra["numbers"]
    row = next(line for line in text.splitlines() if line.startswith("| what was forgotten |"))
    assert f"{100 * numbers['forget_accuracy_before']:.1f}".removesuffix(".0") in row
    assert "The gap to retraining and membership attacks were not measured." in text
    assert "pipeline_tag: image-classification" in text


def test_accuracies_gap_and_leaks(edited, plugin):
    more = [("ua", "base", 0.0), ("ua", "edited", 0.9), ("ua", "retrained", 1.0), ("gap", "base", 0.3),
            ("gap", "edited", 0.034), ("lira_auc", "base", 0.9), ("probe", "edited", 0.5), ("weights", "edited", 0.25),
            ("weights", "base", 1.0)]  # fmt: skip
    found = report(edited.name, *more)
    wide = tuple(replace(row, low=0.4, high=0.7) for row in [EvalRow("lira_auc", "edited", 0.55, 0.55, 0.55, 40)])
    text = hub_cards.card(edited, replace(found, rows=(*found.rows, *wide)), license="mit")
    assert "| forgotten classes, held-out pictures | 100 % | 2.5 % | - |" in text
    assert "| what was forgotten, training pictures | 100 % | 10 % | 0 % |" in text
    assert "from 40 retrained models): 30.0 points before, 3.4 after." in text
    told = "accuracy on what was forgotten, worst change of the weights that leaves half of the edit"
    assert f"| {told} | 100 % | 25 % | - |" in text
    assert "| LiRA, AUC | 0.90 | 0.55 [0.40..0.70] | - |" in text
    assert "drawn" not in text
    first = text.split("\n---\n", 1)[1].split("\n\n")
    assert first[1].startswith("Load this small file into the model `model` and it no longer recognises **three**.")
    assert first[2].startswith(
        "Still recognised, before → after: **three 100 % → 2.5 %, other concepts 95 % → 94 %** of"
    )
    assert "Attacks are among the numbers below." in first[2]
    assert "forgotten classes still recognised" in text
    assert "type: image-classification" in text


def test_other_models_have_no_such_section(pizza, plugin):
    assert "Classes: before and after" not in hub_cards.card(pizza, license="mit")
