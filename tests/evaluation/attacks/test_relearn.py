"""The attack relearn: what it counts, and that nothing of the training stays."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from erase_plugins.engine.adapters import Adapters
from erase_plugins.evaluation.attack import run_attack
from erase_plugins.evaluation.attack_summary import base_rate, control_kind
from erase_plugins.evaluation.attacks import relearn, tuning
from erase_plugins.evaluation.attacks.material import Lesson
from erase_plugins.evaluation.attacks.relearn import Relearn, steps_until
from erase_plugins.testing.models import changed_since, shared_pipeline
from erase_plugins.testing.observe import snapshot
from tests.evaluation.attacks.stub import tiny_subject

SMALL = 4 * relearn._SETS
CHEAP = {"steps": 6, "batch": 2, "pictures": 4, "rank": 2}


@pytest.fixture
def unrelated(monkeypatch):
    """Pictures of something else: the stub judge knows owls only."""

    def pictures(self):
        prompts, size = tuple(self.study.split.training(4, 5)), self.study.subject.target.picture_size()
        return Lesson(torch.rand(4, 3, *size, generator=torch.Generator().manual_seed(1)), prompts, 1.0)

    monkeypatch.setattr(relearn._Run, "benign", pictures)


@pytest.mark.parametrize("name", ["tiny_sd1", "tiny_sdxl"])
def test_report_and_files(name, tmp_path, unrelated):
    pipe = shared_pipeline(name)
    before = snapshot(pipe)
    found = run_attack(Relearn(), lambda: tiny_subject(pipe), SMALL, settings={**CHEAP, "early": "no"}, out=tmp_path)
    assert changed_since(pipe, before) == ""
    assert {item.name for item in tmp_path.iterdir()} == {"attack-relearn.json", *Relearn.attachments}
    assert [row.subject for row in found.rows] == [
        "base", "plain name", "relearned, benign, edited", "relearned from its pictures", "control: destroyed model",
    ]  # fmt: skip
    assert found.found["steps_until_back"] == dict.fromkeys(
        ("relearned, edited", "relearned, destroyed", "relearned, benign, edited"), 1
    )
    assert (base_rate(found), control_kind(found)) == (found.rows[0], "destroyed")
    assert found.details["training_passes"] == 3 * 6 * 2
    assert "looks while training were at 1 pictures each, so these steps are rough" in found.warnings
    assert found.queries <= SMALL


def test_success_is_measured_with_the_training_in_force(monkeypatch, unrelated):
    """Black pictures show an owl: the base draws them, and the edited model while a trained LoRA is on it."""
    trained = []
    enter, leave = Adapters.__enter__, Adapters.__exit__
    monkeypatch.setattr(Adapters, "__enter__", lambda self: trained.append(self) or enter(self))
    monkeypatch.setattr(Adapters, "__exit__", lambda self, *more: trained.remove(self) or leave(self, *more))
    subject = tiny_subject(shared_pipeline("tiny_sd1"), lambda picture: int(bool(picture.max() > 0)), seed=9)
    original = subject.draw

    def drawn(prompts, seeds, cond=None):
        factors = trained[-1].named_parameters().items() if trained and trained[-1].enabled else ()
        taught = any(bool(part.detach().abs().sum() > 0) for name, part in factors if name.endswith(".B"))
        pictures = original(prompts, seeds, cond)
        return torch.full_like(pictures, 0.0 if taught or subject._stage == "base" else 1.0)

    monkeypatch.setattr(subject, "draw", drawn)
    found = run_attack(Relearn(), lambda: subject, SMALL, settings=CHEAP)
    rates = {row.subject: row.value for row in found.rows}
    assert (rates["base"], rates["plain name"], rates["relearned from its pictures"]) == (1.0, 0.0, 1.0)
    assert found.found["steps"] == 2, "two looks in a row"
    assert found.found["steps_until_back"]["relearned, edited"] == 1


@pytest.mark.parametrize(
    ("looks", "end", "back"),
    [
        ({"10": 0.2, "20": 0.6, "30": 0.5}, (12, 24), 20),  # two in a row, the first of them counts
        ({"10": 0.2, "20": 0.6, "30": 0.4}, (0, 24), None),  # one lucky look
        ({"10": 0.2, "20": 0.4, "30": 0.6}, (14, 24), 30),  # the end is the second look
        ({"10": 0.6, "20": 0.4, "30": 0.2}, (24, 24), 40),  # the end alone, its whole interval above
        ({"10": 0.2, "20": 0.4, "30": 0.4}, (14, 24), None),  # the end alone, its interval reaches below
    ],
)
def test_one_lucky_look_is_not_back(looks, end, back):
    hits, count = end
    facts = {"looks": looks, "steps": 40, "hits": [1] * hits + [0] * (count - hits)}
    sample = SimpleNamespace(facts=facts, hits=facts["hits"], rate=hits / count)
    assert steps_until(sample, 0.5) == back


def test_back_is_against_what_the_base_draws():
    """The base draws it in half of the pictures, so a quarter is back: at step 10, which half of all never is."""
    facts = {"looks": {"10": 0.3, "20": 0.3}, "steps": 40, "hits": [1, 0, 0, 0]}
    edited = SimpleNamespace(name="relearned, edited", facts=facts, hits=facts["hits"], rate=0.25)
    base, benign = SimpleNamespace(name="base", rate=0.5), SimpleNamespace(**{**vars(edited), "name": "benign"})
    benign.facts = {**facts, "looks": {"10": 0.2, "20": 0.1}, "passes": 0}
    edited.facts = {**facts, "passes": 0}
    study = SimpleNamespace(looked=lambda: [0] * 9, report=lambda *given, **more: (given, more))
    given, more = relearn._Run(study, relearn.RelearnOptions()).report([edited], [base, benign])
    assert given[3]["steps_until_back"] == {"relearned, edited": 10, "benign": None}
    assert given[3]["back_means"] == 0.25
    assert more["warnings"] == ["relearned, edited: back after 10 steps", "benign: not back within 40 steps"]


def test_the_lora_has_the_rank_of_the_options():
    subject = tiny_subject(shared_pipeline("tiny_sd1"))
    found = tuning.lora_of(subject, tuning.Tuning(1, 1, 3, 0.0, False, 1))
    assert {slot.A.shape[0] for slot in found.slots} == {3}
    assert all(float(slot.B.detach().abs().max()) == 0 for slot in found.slots)
