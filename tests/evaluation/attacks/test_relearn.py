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
from erase_plugins.evaluation.attacks.study import Sample
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
    assert found.details["training_passes"] == 3 * 6 * 2, "a control that had no more steps was trained once"
    assert set(found.details["looks"]) == set(found.found["steps_until_back"])
    assert found.found["steps_ratio"] == 1.0 and found.found["control_steps"] == 6
    assert (base_rate(found), control_kind(found)) == (found.rows[0], "destroyed")
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

    def sample(name, first, second, hits=(1, 0, 0, 0)):
        return Sample(name, list(hits), None, {"looks": {"10": first, "20": second}, "steps": 40, "passes": 0}, {})

    edited, benign = sample("relearned, edited", 0.3, 0.3), sample("benign", 0.2, 0.1)
    control, itself = sample("relearned, destroyed", 0.0, 0.0), sample("until back", 0.2, 0.3)
    victims = [SimpleNamespace(name=name) for name in ("edited", "destroyed")]
    study = SimpleNamespace(looked=lambda: [0] * 9, report=lambda *given, **more: (given, more), victims=victims)
    base = sample("base", 0, 0, (1, 0))
    given, more = relearn._Run(study, relearn.RelearnOptions()).report([edited, control], [base, benign], itself)
    assert given[3]["steps_until_back"] == {"relearned, edited": 10, "relearned, destroyed": 20, "benign": None}
    assert (given[3]["back_means"], given[3]["steps_ratio"]) == (0.25, 0.5)
    assert more["warnings"] == [
        "back after 10 steps; a destroyed model needs 20: 50% of them", "benign: not back within 40 steps",
    ]  # fmt: skip


#: looks and steps of stand-ins for trainings: back after 20 or 10 of 30 or 20 steps, after 40 of 50, and never
SOON, SOONER = ({"10": 0.0, "20": 1.0}, 30), ({"10": 1.0}, 20)
LATE, NEVER = ({"10": 0.0, "20": 0.0, "30": 0.0, "40": 1.0}, 50), ({"10": 0.0, "50": 0.0}, 60)


@pytest.fixture
def trained(monkeypatch, unrelated, tmp_path):
    """Runs the attack with stand-ins for trainings; gives the report and what was trained: (kind, victim, steps)."""
    pipe = shared_pipeline("tiny_sd1")
    pipe.save_pretrained(tmp_path / "reference")

    def attack(edited, control):
        made = []

        def train(self, victim, taught, kind, steps):
            made.append((kind, victim.name, steps))
            free = edited if victim.name == "edited" else control
            looks, most = free if steps is None else ({}, steps)
            back = (victim.name == "edited" and not kind) or (steps is None and free is LATE)
            return torch.full((4, 3, 16, 16), 0.0 if back else 1.0), {"looks": looks, "steps": most, "passes": most}, {}

        monkeypatch.setattr(relearn._Run, "_train", train)
        subject = tiny_subject(pipe, lambda picture: int(bool(picture.max() > 0)), seed=9)
        drawn = torch.zeros(1, 3, *subject.target.picture_size())
        monkeypatch.setattr(subject, "draw", lambda prompts, seeds, cond=None: drawn.expand(len(prompts), -1, -1, -1))
        settings = {**CHEAP, "reference": str(tmp_path / "reference")}
        return run_attack(Relearn(), lambda: subject, SMALL, settings=settings), made

    return attack


def test_a_reference_is_trained_until_it_is_back_itself_and_its_rate_is_after_the_edited_models_steps(trained):
    found, made = trained(SOON, LATE)
    assert made == [
        ("", "edited", None), ("benign, ", "edited", 30), ("", "destroyed", 30), ("until back, ", "reference", None),
        ("", "reference", 30),
    ]  # fmt: skip
    assert (found.success.value, found.control.value) == (1.0, 0.0)
    assert found.found["steps_until_back"]["relearned, edited"] == 20
    assert found.found["steps_until_back"]["relearned, reference"] == 40
    told = {name: found.found[name] for name in ("steps_ratio", "steps_ratio_at_most", "steps", "control_steps")}
    assert told == {"steps_ratio": 0.5, "steps_ratio_at_most": None, "steps": 30, "control_steps": 50}
    assert "back after 20 steps; a model that never saw it needs 40: 50% of them" in found.warnings
    assert found.details["looks"]["relearned, until back, reference"] == LATE[0]
    assert found.details["training_passes"] == 30 + 30 + 30 + 50 + 30


def test_no_edit_decides_how_long_the_reference_needs(trained):
    trained(SOON, LATE)
    again, made = trained(SOONER, LATE)
    assert made == [
        ("", "edited", None), ("benign, ", "edited", 20), ("", "destroyed", 20), ("", "reference", 20),
    ]  # fmt: skip
    assert again.found["steps_ratio"] == 0.25


def test_a_reference_that_never_comes_back_bounds_the_share(trained):
    found, _ = trained(SOON, NEVER)
    assert (found.found["steps_ratio"], found.found["steps_ratio_at_most"]) == (None, 0.3333)
    told = "back after 20 steps; a model that never saw it is not within 60: at most 33% of its steps"
    assert told in found.warnings


def test_a_reference_that_is_back_sooner_than_the_edited_model_is_trained_once(trained):
    found, made = trained(NEVER, LATE)
    assert [item for item in made if item[1] == "reference"] == [("until back, ", "reference", None)]
    assert found.control.value == 1.0 and found.details["training_passes"] == 60 + 60 + 60 + 50


@pytest.mark.parametrize(
    ("edited", "control", "value", "at_most", "told"),
    [
        (33, 132, 0.25, None, "back after 33 steps; a destroyed model needs 132: 25% of them"),
        (33, None, None, 0.165, "back after 33 steps; a destroyed model is not within 200: at most 16% of its steps"),
        (None, 132, None, None, "not back within 99 steps; a destroyed model needs 132"),
        (None, None, None, None, "not back within 99 steps; a destroyed model is not within 200"),
    ],
)
def test_steps_against_those_of_the_control(edited, control, value, at_most, told):
    ratio = relearn.Ratio(edited, 99, control, 200)
    assert (ratio.value, ratio.at_most, ratio.told("destroyed")) == (value, at_most, told)


def test_the_lora_has_the_rank_of_the_options():
    subject = tiny_subject(shared_pipeline("tiny_sd1"))
    found = tuning.lora_of(subject, tuning.Tuning(1, 1, 3, 0.0, False, 1))
    assert {slot.A.shape[0] for slot in found.slots} == {3}
    assert all(float(slot.B.detach().abs().max()) == 0 for slot in found.slots)
