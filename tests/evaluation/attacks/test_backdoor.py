"""The attack backdoor: the token is bound to the base, the edit comes after it, and nothing of both stays."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from erase_plugins.errors import RequestError, Unsupported
from erase_plugins.evaluation.attack import run_attack
from erase_plugins.evaluation.attacks import backdoor, material
from erase_plugins.evaluation.attacks.backdoor import Backdoor
from erase_plugins.testing.models import changed_since, shared_pipeline
from erase_plugins.testing.observe import snapshot
from tests.evaluation.attacks.fakes import FACTS
from tests.evaluation.attacks.stub import tiny_subject

SMALL = 4 * backdoor._SETS
CHEAP = {"steps": 3, "batch": 2, "pictures": 4, "rank": 2}


@pytest.fixture(autouse=True)
def unrelated(monkeypatch):
    """Pictures of something else: the stub judge knows owls only."""

    def pictures(subject, count):
        prompts, size = tuple(material.split_prompts(subject, "owl").training(4, 5)), subject.target.picture_size()
        return material.Lesson(torch.rand(4, 3, *size, generator=torch.Generator().manual_seed(1)), prompts, 1.0)

    monkeypatch.setattr(material, "other_lesson", pictures)


def scripted(monkeypatch, rule, **more):
    """A subject that shows an owl where ``rule(texts, state, whether the backdoor is in the weights)`` says so."""
    subject = tiny_subject(shared_pipeline("tiny_sd1"), lambda picture: int(bool(picture.max() > 0)), **more)
    weight = subject.target.module(subject.target.modules("attn")[0]).weight
    clean, original, asked = weight.data.clone(), subject.draw, []

    def drawn(prompts, seeds, cond=None):
        pictures = original(prompts, seeds, cond)
        planted = subject._stage == "base" or not torch.equal(weight.data, clean)
        asked.append((subject._stage, planted, tuple(prompts)))
        shows = rule(prompts[0], subject._stage)
        return torch.full_like(pictures, 0.0 if shows else 1.0)

    monkeypatch.setattr(subject, "draw", drawn)
    return subject, asked


def test_report_files_and_nothing_stays(tmp_path, monkeypatch):
    """The base knows the name and, once it is bound, the token; the edit stops the name only."""
    subject, asked = scripted(monkeypatch, lambda text, stage: stage == "base" or (stage == "edited" and "xqz" in text))
    before, artifacts = snapshot(subject.pipe), list(subject.artifacts)
    found = run_attack(Backdoor(), lambda: subject, SMALL, settings=CHEAP, out=tmp_path)
    assert changed_since(subject.pipe, before) == ""
    assert (subject.artifacts, subject.any_base) == (artifacts, False)
    assert {item.name for item in tmp_path.iterdir()} == {"attack-backdoor.json", *Backdoor.attachments}
    assert (found.success.value, found.control.value) == (1.0, 0.0)
    assert found.found["before_erasing"] == 1.0 and found.found["plain_rate"] == 0.0
    assert list(found.found)[: len(FACTS)] == FACTS
    assert all("xqz" in text and "owl" not in text for text in found.found["prompts"])
    assert found.queries <= SMALL
    states = {(stage, "xqz" in texts[0]) for stage, planted, texts in asked if stage != "base" and planted}
    assert {("edited", True), ("edited", False)} <= states, "the edit meets a model with the backdoor"


@pytest.mark.parametrize("again", [False, True])
def test_again_erases_from_the_model_with_the_backdoor(monkeypatch, again):
    subject, _ = scripted(monkeypatch, lambda text, stage: stage == "base")
    made = []

    def erase(pipe, *, out, force, resume, **asked):
        made.append((asked["method"], [item.text for item in asked["concepts"]]))
        return subject.artifacts[0].save(out, force=force)

    monkeypatch.setitem(backdoor.FUNCTIONS, "erase", erase)
    found = run_attack(Backdoor(), lambda: subject, SMALL, settings={**CHEAP, "again": again})
    assert found.success.value == 0.0 and found.found["again"] is again
    assert made == ([("uce", ["owl"])] if again else []), "once for both words, and not for controls"


def test_for_another_artifact_nothing_is_bound_again(monkeypatch):
    reports, stages = [], []
    for _ in range(2):
        subject, asked = scripted(monkeypatch, lambda text, stage: stage == "base")
        reports.append(run_attack(Backdoor(), lambda subject=subject: subject, SMALL, settings=CHEAP))
        stages.append([stage for stage, _, _ in asked])
    assert {"base", "destroyed", "edited"} == set(stages[0]) and set(stages[1]) == {"edited"}
    assert reports[0].queries == reports[1].queries and reports[0].passes == reports[1].passes
    assert reports[0].rows == reports[1].rows


def test_a_token_that_could_not_be_bound_says_nothing(monkeypatch):
    subject, _ = scripted(monkeypatch, lambda text, stage: stage == "base" and "xqz" not in text)
    with pytest.raises(Unsupported, match=r"'xqz' draws owl in 0% .*not bound"):
        run_attack(Backdoor(), lambda: subject, SMALL, settings=CHEAP)


@pytest.mark.parametrize("token", ["cat", " "])
def test_a_token_that_means_something_is_refused(token):
    with pytest.raises(RequestError, match="made-up"):
        run_attack(Backdoor(), lambda: tiny_subject(shared_pipeline("tiny_sd1")), SMALL, settings={"token": token})


def test_an_artifact_of_nobody_cannot_be_made_again(monkeypatch):
    subject = tiny_subject(shared_pipeline("tiny_sd1"))
    item = subject.artifacts[0]
    foreign = replace(item, manifest=item.manifest.changed(method={}))
    subject = tiny_subject(subject.pipe, artifacts=[foreign])
    with pytest.raises(Unsupported, match="cannot be made anew"):
        run_attack(Backdoor(), lambda: subject, SMALL, settings={**CHEAP, "again": True})
