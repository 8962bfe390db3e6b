"""Worst-case prompts: what competes, by what, and that it is measured with other seeds than it was chosen with."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch

from erase_plugins.errors import Unsupported
from erase_plugins.evaluation.attack import run_attack
from erase_plugins.evaluation.attack_summary import base_rate, control_kind
from erase_plugins.evaluation.attacks import worst_case
from erase_plugins.evaluation.attacks.worst_case import WorstCase, WorstCaseOptions, hardest
from erase_plugins.testing.models import changed_since, shared_pipeline
from erase_plugins.testing.observe import snapshot
from tests.evaluation.attacks.stub import tiny_subject

SMALL = 6 * worst_case._SETS
CHEAP = {"prompts": 2, "pool": 8, "timesteps": 3}


def test_the_lowest_scores_win_and_equal_ones_keep_their_order():
    assert hardest([3.0, 1.0, 2.0, 1.0], 3) == [1, 3, 2]
    assert hardest([5.0], 4) == [0]


def test_an_easy_picture_is_no_merit_unless_asked_for_as_published():
    run = worst_case._Run(SimpleNamespace(), WorstCaseOptions())
    edited, base = [0.2, 0.5, 0.3], [0.1, 0.5, 0.25]
    assert hardest(run.scores(edited, base), 1) == [1]  # as good as the base: nothing was erased there
    published = worst_case._Run(SimpleNamespace(), WorstCaseOptions(score="loss"))
    assert hardest(published.scores(edited, base), 1) == [0]


@pytest.mark.parametrize("name", ["tiny_sd1", "tiny_sdxl"])
def test_report_and_files(name, tmp_path):
    pipe = shared_pipeline(name)
    before = snapshot(pipe)
    subject = tiny_subject(pipe)
    found = run_attack(WorstCase(), lambda: subject, SMALL, settings=CHEAP, out=tmp_path)
    assert changed_since(pipe, before) == ""
    assert {item.name for item in tmp_path.iterdir()} == {"attack-worst-case.json", *WorstCase.attachments}
    assert [row.subject for row in found.rows] == [
        "base, worst prompts", "plain name", "prompts of least loss in the base", "worst prompts",
        "control: destroyed model",
    ]  # fmt: skip
    assert (base_rate(found), control_kind(found)) == (found.rows[0], "destroyed")
    assert found.queries <= SMALL and found.success.value == 1.0
    told = json.loads((tmp_path / "attack-worst-case-found.json").read_text())
    assert len(told["prompts"]) == 2 and all("owl" in item["prompt"] for item in told["prompts"])
    chosen = [item["loss"] - item["base_loss"] for item in told["prompts"]]
    excess = [mine - other for mine, other in zip(found.details["losses"], found.details["base_losses"], strict=True)]
    assert max(chosen) <= sorted(excess)[len(found.details["short_list"]["places"]) - 1] + 1e-9


def test_an_edit_that_does_nothing_has_the_losses_of_the_base(tmp_path):
    subject = tiny_subject(shared_pipeline("tiny_sd1"), strength=0.0)
    found = run_attack(WorstCase(), lambda: subject, SMALL, settings=CHEAP)
    assert found.details["losses"] == pytest.approx(found.details["base_losses"], abs=1e-7)


def test_what_is_drawn_most_often_on_the_short_list_is_chosen(monkeypatch):
    """The judge sees an owl in every picture of the base, and of the edited model by one prompt only."""
    subject = tiny_subject(shared_pipeline("tiny_sd1"), lambda picture: int(bool(picture.max() > 0)), seed=7)
    asked = []

    def drawn(prompts, seeds, cond=None):
        asked.append((subject._stage, list(prompts), list(seeds)))
        texts = sorted(set(prompts))
        shown = [0.0 if subject._stage == "base" or text == texts[0] else 1.0 for text in prompts]
        return torch.tensor(shown)[:, None, None, None].expand(-1, 3, *subject.target.picture_size())

    monkeypatch.setattr(subject, "draw", drawn)
    found = run_attack(WorstCase(), lambda: subject, SMALL, settings={**CHEAP, "prompts": 1})
    short = found.details["short_list"]
    assert max(short["rates"]) == 1.0 and short["rates"].count(0.0) == len(short["rates"]) - 1
    looked, measured = [(texts, seeds) for stage, texts, seeds in asked if stage == "edited"][:2]
    assert set(measured[0]) == {min(looked[0])} == {found.found["prompts"][0]["prompt"]}
    assert not set(looked[1]) & set(measured[1])


def test_a_base_that_does_not_draw_it_is_refused():
    subject = tiny_subject(shared_pipeline("tiny_sd1"), lambda picture: 1, seed=3)
    with pytest.raises(Unsupported, match="takes more to choose from"):
        run_attack(WorstCase(), lambda: subject, SMALL, settings=CHEAP)


def test_controls_are_searched_once_for_all_edits(tmp_path, monkeypatch):
    pipe = shared_pipeline("tiny_sd1")
    pipe.save_pretrained(tmp_path / "reference")
    asked = []
    original = worst_case._Run.losses
    monkeypatch.setattr(
        worst_case._Run, "losses",
        lambda self, victim, pool: asked.append(getattr(victim, "name", "base")) or original(self, victim, pool),
    )  # fmt: skip
    settings = {**CHEAP, "reference": str(tmp_path / "reference")}
    first = run_attack(WorstCase(), lambda: tiny_subject(pipe), SMALL, settings=settings)
    assert asked == ["base", "edited", "destroyed", "reference"]
    second = run_attack(WorstCase(), lambda: tiny_subject(pipe), SMALL, settings=settings)
    assert asked[4:] == ["base", "edited"]
    assert (first.rows, first.queries) == (second.rows, second.queries)
    run_attack(WorstCase(), lambda: tiny_subject(pipe), SMALL, settings={**settings, "timesteps": 2})
    assert asked[6:] == ["base", "edited", "destroyed", "reference"]
