"""The attack probe: the classifier against what is known, features of the right passes, the report."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from erase_plugins.evaluation.attack import run_attack
from erase_plugins.evaluation.attacks import probe
from erase_plugins.evaluation.attacks.controls import Victim
from erase_plugins.evaluation.attacks.features import Ridge, features
from erase_plugins.evaluation.attacks.material import Lesson
from erase_plugins.evaluation.attacks.probe import Probe
from erase_plugins.evaluation.attacks.study import Study
from erase_plugins.testing.models import changed_since, shared_pipeline
from erase_plugins.testing.observe import snapshot
from erase_plugins.workflow.models import target_of
from tests.evaluation.attacks.stub import tiny_subject

SMALL = 4 * probe._SETS


def clouds(shift, count=40, width=100):
    generator = torch.Generator().manual_seed(4)
    far = torch.zeros(width)
    far[7] = shift
    return torch.randn(count, width, generator=generator) + far, torch.randn(count, width, generator=generator)


def test_ridge_tells_apart_what_differs_and_nothing_else():
    positive, negative = clouds(20.0)
    ridge = Ridge(positive[:20], negative[:20])
    assert ridge.positive(positive[20:]) == [1] * 20
    assert ridge.positive(negative[20:]) == [0] * 20
    positive, negative = clouds(0.0)
    ridge = Ridge(positive[:20], negative[:20])
    right = sum(ridge.positive(positive[20:])) + 20 - sum(ridge.positive(negative[20:]))
    assert 8 <= right <= 32, "chance"


def test_few_of_one_class_do_not_move_the_border():
    positive, negative = clouds(20.0)
    ridge = Ridge(positive[:8], negative)
    assert sum(ridge.positive(positive[8:])) >= 30
    assert sum(ridge.positive(negative[8:])) <= 2


@pytest.mark.parametrize("name", ["tiny_sd1", "tiny_sdxl"])
def test_features_are_what_the_queries_are_made_of(name):
    pipe = shared_pipeline(name)
    target = target_of(pipe, "tiny")
    latents = torch.randn(3, *target.info.latent_shape, generator=torch.Generator().manual_seed(0))
    found = features(target, latents, ["a owl", "a cat", ""], 0.5, 1)
    assert found.shape == (3, sum(ref.shape[1] for ref in target.modules("cross_q")))
    assert torch.equal(found, features(target, latents, ["a owl", "a cat", ""], 0.5, 1))
    noise = [features(target, scale * latents, ["a owl"] * 3, 1.0, 1) for scale in (1, 5)]
    assert torch.equal(*noise), "pure noise shows nothing of the latents"
    assert not torch.equal(found[0], features(target, latents, ["a dog", "a cat", ""], 0.5, 1)[0])


def test_report_and_files(tmp_path, monkeypatch):
    pipe = shared_pipeline("tiny_sd1")
    before = snapshot(pipe)

    class Told(Lesson):
        """Latents that every denoiser's features show: one sign for the concept, the other for the rest."""

        def latents(self, subject):
            return self.share * torch.ones(4, *subject.target.info.latent_shape)

    def pictures(self):
        prompts, grey = tuple(self.study.split.training(4, 5)), torch.full((4, 3, 16, 16), 0.5)
        return {name: (Told(grey, prompts, sign),) * 2 for name, sign in (("concept", 3.0), ("other", -3.0))}

    monkeypatch.setattr(probe._Run, "pictures", pictures)
    found = run_attack(Probe(), lambda: tiny_subject(pipe), SMALL, settings={"level": 0.05}, out=tmp_path)
    assert changed_since(pipe, before) == ""
    assert {item.name for item in tmp_path.iterdir()} == {"attack-probe.json", *Probe.attachments}
    assert found.success.n == 8 and found.success.value == 1.0
    assert found.control.value == 1.0, "a destroyed model shows it as well, and the report says so"
    assert any("also succeeds on the destroyed model" in text for text in found.warnings)
    subjects = [row.subject for row in found.rows if row.metric == "readable_rate"]
    assert subjects == [f"read by its name, {name}" for name in ("base", "edited", "destroyed")]


def told(prompts, *marks):
    """Pictures that a patched `features` reads these numbers from."""

    class Marked(Lesson):
        def latents(self, subject):
            return torch.tensor(marks)[:, None]

    return Marked(torch.full((len(marks), 3, 8, 8), 0.5), tuple(prompts), 1.0)


def test_pictures_that_were_learned_from_are_not_those_of_the_test(monkeypatch):
    """Learned: the concept is 1, other things are -1. Of three new pictures of each kind one looks like the other."""
    asked = []

    def read(target, latents, prompts, level, seed):
        asked.append((list(prompts), level, seed))
        return latents

    monkeypatch.setattr("erase_plugins.evaluation.attacks.features.features", read)
    subject = tiny_subject(shared_pipeline("tiny_sd1"), seed=7)
    shown = {"concept": (told([], 1.0, 1.0), told([], 1.0, 1.0, -1.0)),
             "other": (told([], -1.0, -1.0), told([], -1.0, 1.0, -1.0))}  # fmt: skip
    run = probe._Run(SimpleNamespace(subject=subject), probe.ProbeOptions(level=0.3))
    assert run.from_pictures(Victim("edited", subject), shown) == [1, 1, 0, 1, 0, 1]
    assert [(len(prompts), set(prompts), level, seed) for prompts, level, seed in asked] == [
        (2, {""}, 0.3, 7), (3, {""}, 0.3, 8), (2, {""}, 0.3, 7), (3, {""}, 0.3, 8),
    ]  # fmt: skip


def test_the_name_is_learned_on_the_base_from_other_prompts_than_those_of_the_test(monkeypatch):
    asked = []

    def read(target, latents, prompts, level, seed):
        asked.append((tuple(prompts), level, subject._stage))
        return torch.tensor([[1.0 if "owl" in text else -1.0] for text in prompts])

    monkeypatch.setattr("erase_plugins.evaluation.attacks.features.features", read)
    subject = tiny_subject(shared_pipeline("tiny_sd1"))
    budget = SimpleNamespace(
        name="quick", queries=SMALL, options={"reference": "", "concept": ""}, remember=lambda stage, make: make()
    )
    made = Study.of(Probe(), subject, budget, probe._SETS)
    found = probe._Run(made, probe.ProbeOptions()).by_name()
    assert {name: set(hits) for name, hits in found.items()} == {"base": {1}, "edited": {1}, "destroyed": {1}}
    assert [stage for _, _, stage in asked] == ["base", "base", "base", "edited", "destroyed"]
    assert {level for _, level, _ in asked} == {1.0}
    tested = tuple(item.text for item in made.prompts)
    assert [texts for texts, _, _ in asked[2:]] == [tested] * 3
    assert not set(asked[0][0]) & set(tested)


def test_controls_are_read_once_for_all_edits(tmp_path, monkeypatch):
    pipe = shared_pipeline("tiny_sd1")
    pipe.save_pretrained(tmp_path / "reference")
    read = []
    original = probe._Run.from_pictures
    monkeypatch.setattr(
        probe._Run, "from_pictures",
        lambda self, victim, shown: read.append(victim.name) or original(self, victim, shown),
    )  # fmt: skip
    named = []

    def seen(target, latents, prompts, level, seed):
        named.extend(["name"] * (level == 1.0))
        return features(target, latents, prompts, level, seed)

    monkeypatch.setattr("erase_plugins.evaluation.attacks.features.features", seen)
    monkeypatch.setattr(probe._Run, "pictures", lambda self: {
        name: (Lesson(torch.full((4, 3, 16, 16), grey), tuple(self.study.split.training(4, 5)), 1.0),) * 2
        for name, grey in (("concept", 0.2), ("other", 0.8))
    })  # fmt: skip
    settings = {"reference": str(tmp_path / "reference")}
    first = run_attack(Probe(), lambda: tiny_subject(pipe), SMALL, settings=settings)
    assert (read, len(named)) == (["edited", "destroyed", "reference"], 2 + 4)
    second = run_attack(Probe(), lambda: tiny_subject(pipe), SMALL, settings=settings)
    assert read[3:] == ["edited"] and len(named) == 6 + 2 + 1, "of base and controls no name is read again"
    assert (first.rows, first.details) == (second.rows, second.details)
    run_attack(Probe(), lambda: tiny_subject(pipe), SMALL, settings={**settings, "level": 0.5})
    assert read[4:] == ["edited", "destroyed", "reference"]
