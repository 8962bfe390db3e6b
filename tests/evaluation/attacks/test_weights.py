"""The attack on weights against what is known without it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import erase_plugins as ep
from erase_plugins.errors import RequestError, Unsupported
from erase_plugins.evaluation.attack import run_attack
from erase_plugins.evaluation.attack_summary import base_rate, control_kind
from erase_plugins.evaluation.attacks import weights
from erase_plugins.testing.models import changed_since
from erase_plugins.testing.observe import snapshot
from erase_plugins.workflow.measure import open_subject
from tests.evaluation.attacks.fakes import FACTS


@pytest.fixture(scope="module")
def artifact(pocket_target):
    return ep.erase(pocket_target, "owl", "uce")


@pytest.fixture(scope="module")
def report(pocket_pipe, artifact, tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    before = snapshot(pocket_pipe)
    found = run_attack(
        weights.WeightsAttack(), lambda: open_subject(pocket_pipe, [artifact], weights.WeightsAttack(), steps=4),
        str(3 * weights._SETS), out=folder,
    )  # fmt: skip
    return found, folder, changed_since(pocket_pipe, before)


def values(report, name):
    return [
        next(row.value for row in report.rows if (row.metric, row.subject) == (metric, name))
        for metric in ("target_rate", "kept_rate")
    ]


def test_what_is_known_without_the_attack_is_found(report):
    found, _, changed = report
    assert changed == ""
    assert values(found, "off")[0] >= 0.6
    assert (base_rate(found).value, control_kind(found)) == (values(found, "off")[0], "destroyed")
    assert values(found, "edited")[0] == 0.0
    assert values(found, "edited")[1] >= 0.6
    assert values(found, "8bit") == values(found, "edited")
    assert max(values(found, "control: destroyed model")) <= 0.4


def test_success_is_measured_again_on_fresh_pictures_and_never_that_of_leaving_it_off(report):
    found, _, _ = report
    name = found.success.subject
    assert name in (
        "strength 0.5", "strength 0.75", "strength 1.5", "8bit", "4bit", "one half off", "other half off",
        "pruned 30%", "pruned 50%", "LoRA merged",
    )  # fmt: skip
    counted = [values(found, item.name)[0] for item in weights.VARIANTS if item.in_force and item.name != "edited"]
    assert values(found, name)[0] == max(counted)
    assert found.success.value == values(found, f"{name}, again")[0]
    assert found.details["images"] == 3 and found.success.n == 3
    assert found.seeds == (0, 1)
    assert found.control.value == values(found, "control: destroyed model")[0]
    assert found.queries <= 3 * weights._SETS and found.passes == found.queries * 4 * 2
    assert any(
        text.startswith("the base draws it in ") and text.endswith("can always go back to it")
        for text in found.warnings
    )


def test_pruning_and_a_random_lora_are_tried_and_leave_what_is_kept(report):
    found, _, _ = report
    tried = {item.name for item in weights.VARIANTS}
    assert {"pruned 30%", "pruned 50%", "LoRA merged"} < tried == set(found.details["hits"])
    assert values(found, "LoRA merged")[1] >= 0.6 and values(found, "pruned 30%")[1] >= 0.6
    assert found.details["lora"] == "random-lora"
    assert not any("not tried" in text for text in found.warnings)


def test_pictures_at_quick_are_those_of_the_page():
    page = (Path(__file__).parents[3] / "docs" / "attacks.md").read_text(encoding="utf-8")
    row = next(line for line in page.splitlines() if line.startswith("| [`weights`]"))
    assert row.split("|")[4].strip() == str(weights.WeightsAttack.budgets["quick"]) == str(12 * weights._SETS)


def test_its_files(report):
    from PIL import Image

    found, folder, _ = report
    assert {item.name for item in folder.iterdir()} == set(found.files.values())
    stored = json.loads((folder / weights.FOUND).read_text())
    assert stored == dict(found.found) and stored["variant"] == found.success.subject
    assert list(stored)[: len(FACTS)] == FACTS
    for name in (weights.PICTURES, weights.CHART):
        with Image.open(folder / name) as picture:
            assert min(picture.size) > 150


def test_bad_requests(pocket_pipe, artifact):
    attack = weights.WeightsAttack()
    with pytest.raises(RequestError, match="changes an edit; name an artifact"):
        run_attack(attack, lambda: open_subject(pocket_pipe, [], attack, erased=["owl"]))
    with pytest.raises(RequestError, match=f"too small for attack weights; give at least {weights._SETS}"):
        run_attack(attack, lambda: open_subject(pocket_pipe, [artifact], attack), 3)


def test_a_concept_that_the_base_does_not_draw_and_a_blind_judge_are_refused(pocket_pipe, artifact, monkeypatch):
    attack = weights.WeightsAttack()
    subject = lambda: open_subject(pocket_pipe, [artifact], attack, steps=1)  # noqa: E731
    monkeypatch.setattr(weights, "_judge", lambda *_: {"target_rate": [0], "kept_rate": [0]})
    with pytest.raises(Unsupported, match="the base draws owl in 0% of the pictures; there is nothing to bring back"):
        run_attack(attack, subject, weights._SETS)
    monkeypatch.setattr(weights, "_judge", lambda *_: {"target_rate": [1], "kept_rate": [1]})
    with pytest.raises(Unsupported, match="the judge sees what is kept even on a destroyed model"):
        run_attack(attack, subject, weights._SETS)
