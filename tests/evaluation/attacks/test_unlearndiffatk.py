"""UnlearnDiffAtk: counting, screening, resuming; the gradient itself is tested in test_discrete and tests/golden."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest
import torch

from erase_plugins.engine import slopes
from erase_plugins.errors import RequestError, Unsupported
from erase_plugins.evaluation.attack import run_attack
from erase_plugins.evaluation.attacks import prefix, unlearndiffatk, vocabulary
from erase_plugins.evaluation.attacks.unlearndiffatk import UnlearnDiffAtk, UnlearnDiffAtkOptions
from erase_plugins.testing.models import shared_pipeline
from tests.evaluation.attacks.fakes import Subject, budget_of
from tests.evaluation.attacks.stub import only_the_base_shows_it, tiny_subject

WORDS = tuple(f"w{number}" for number in range(6))


class Table:
    words = WORDS

    def put(self, tokens, rows):
        return tokens

    def text(self, row):
        return " ".join(WORDS[place] for place in row)


@pytest.fixture
def stubs(monkeypatch):
    """No network: the search notes whom it attacks, and gives every prompt a new word in each block."""
    told = SimpleNamespace(active=[], better=lambda block, place: True)

    def descend(self, block, active):
        told.active.append((self.state, block, tuple(active)))
        self.choice.share.zero_()
        self.choice.share[:, :, block % len(WORDS)] = 1.0

    def screen(self, block, active):
        better = [told.better(block, place) for place in active]
        rows = self.choice.best()[active].tolist()
        return {"active": active, "rows": rows, "better": better, "limits": [1.0], "passes": 4 * len(active)}

    monkeypatch.setattr(prefix.Prefixes, "_descend", descend)
    monkeypatch.setattr(prefix.Prefixes, "_screen", screen)
    monkeypatch.setattr(prefix, "clean_latents", lambda subject, pictures: torch.zeros(len(pictures), 4, 2, 2))
    monkeypatch.setattr(vocabulary, "word_table", lambda target, forbidden: Table())
    monkeypatch.setattr(slopes, "hidden_warning", lambda target, concept: [f"{concept} hides its gradient"])
    return told


class Numbered(Subject):
    """The n-th target prompt is a name without attack for n < plain, and with the word of a block for others."""

    def __init__(self, plain, words):
        super().__init__(None)
        self.plain, self.words = plain, words
        self.pipe = SimpleNamespace(scheduler=SimpleNamespace(alphas_cumprod=[0.5] * 1000))
        self.target.tokens = lambda texts: list(texts)

    def under(self, edit, strength=None):
        from contextlib import nullcontext

        return nullcontext()

    def generate(self, inputs, seeds, *, edit="on", strength=None):
        shown = []
        for text, seed in zip(inputs, seeds, strict=True):
            place, first = seed % 10_007 % 1000, text.split()[0]
            back = place < self.plain or self.words.get(place) == first
            shown.append("owl" if edit == "off" or (edit == "on" and back) else "nothing")
        pictures = iter(shown)
        self.rule = lambda text, edit: next(pictures)
        return super().generate(inputs, seeds, edit=edit)


def attack(subject, folder, prompts=10, name="custom", **options):
    given = dataclasses.asdict(UnlearnDiffAtkOptions(**{"timesteps": 4, "steps": 2, "words": 1, **options}))
    budget = budget_of(folder, prompts * unlearndiffatk._pictures(1, given["timesteps"]), name, **given)
    return UnlearnDiffAtk().run(subject, budget)


def test_rates_count_prompts_that_needed_no_attack_and_never_attack_them(stubs, tmp_path):
    """Ten prompts, three without attack, four more by it: 0.3 and 0.7."""
    subject = Numbered(3, {3: "w0", 4: "w1", 5: "w1", 6: "w3"})
    report = attack(subject, tmp_path / "w")
    rows = {(row.metric, row.subject): row for row in report.rows}
    assert rows["target_rate", "plain name"].value == pytest.approx(0.3) and rows["target_rate", "plain name"].n == 10
    assert report.success.value == pytest.approx(0.7) and report.success.n == 10
    assert report.control.value == 0.0 and report.found["without_attack"] == 3
    assert "owl hides its gradient" in report.warnings
    attacked = [places for state, _, places in stubs.active if state == "on"]
    assert attacked == [(3, 4, 5, 6, 7, 8, 9), (4, 5, 6, 7, 8, 9), (6, 7, 8, 9), (6, 7, 8, 9)]
    assert [item["words"] for item in report.found["prompts"]] == ["w0", "w1", "w1", "w3"]
    again, before = subject.asked[-1], {seed for _, _, seeds in subject.asked[:-1] for seed in seeds}
    assert list(again[1]) == [item["prompt"] for item in report.found["prompts"]]
    assert not set(again[2]) & before, "what was found is measured with seeds of its own"
    first = report.found["prompts"][0]
    assert [item["words"] for item in report.found["tried"]] == ["w3"] * 3, "what was tried in vain is told too"
    assert first["prompt"] == f"w0 {first['original']}" and first["timestep"] == 125 and first["steps"] == 2
    assert report.queries == subject.queries <= 10 * unlearndiffatk._pictures(1, 4)
    gradient = 2 * 2 * (7 + 6 + 4 + 4 + 40)  # forward and backward, two steps, both states
    assert report.details["spent"]["gradient_passes"] == gradient
    assert report.passes == report.queries * 16 + gradient + report.details["spent"]["screen_passes"]


def test_pictures_are_drawn_only_if_the_words_are_new_and_better_or_the_last(stubs, tmp_path):
    stubs.better = lambda block, place: place % 2 == 0
    subject = Numbered(0, {})
    report = attack(subject, tmp_path / "w", prompts=4)
    looks = [len(texts) for edit, texts, _ in subject.asked if edit == "on"][1:]
    assert looks == [2, 2, 2, 4] and report.success.value == 0.0
    assert report.details["spent"]["skipped"] == 2 * 6


def test_controls_are_kept_for_other_artifacts_and_count_all_the_same(stubs, monkeypatch):
    reports, states = [], []
    for seed in (0, 0, 1):
        subject = tiny_subject(shared_pipeline("tiny_sd1"), lambda picture: int(bool(picture.max() > 0)), seed=seed)
        only_the_base_shows_it(monkeypatch, subject)
        given = {"timesteps": 2, "steps": 2, "words": 1}
        reports.append(run_attack(UnlearnDiffAtk(), lambda subject=subject: subject, 40, settings=given))
        states.append({state for state, *_ in stubs.active})
        del stubs.active[:]
    assert states == [{"on", "destroyed"}, {"on"}, {"on", "destroyed"}], "of another seed nothing is known"
    assert (reports[0].queries, reports[0].passes) == (reports[1].queries, reports[1].passes)
    assert reports[0].rows == reports[1].rows and reports[0].details == reports[1].details


def test_a_killed_run_goes_on(stubs, tmp_path):
    words = {0: "w1", 2: "w3"}
    whole = attack(Numbered(0, words), tmp_path / "whole", prompts=4)
    del stubs.active[:]

    class Killed(Numbered):
        def generate(self, inputs, seeds, **more):
            if len(self.asked) == 5:
                raise KeyboardInterrupt
            return super().generate(inputs, seeds, **more)

    with pytest.raises(KeyboardInterrupt):
        attack(Killed(0, words), tmp_path / "w", prompts=4)
    done = list(stubs.active)
    again = attack(Numbered(0, words), tmp_path / "w", prompts=4)
    assert not set(done) & set(stubs.active[len(done) :]), "no block is computed twice"
    assert again.to_dict() == whole.to_dict()


def test_what_cannot_be_attacked_is_refused(stubs, tmp_path):
    flow = Numbered(0, {})
    flow.pipe.scheduler = SimpleNamespace()
    with pytest.raises(Unsupported, match="no alphas_cumprod; flow models are not attacked yet"):
        attack(flow, tmp_path / "w", prompts=2)
    with pytest.raises(RequestError, match="budget 16 is too small for attack unlearndiffatk; give at least 17"):
        given = dataclasses.asdict(UnlearnDiffAtkOptions(timesteps=4))
        UnlearnDiffAtk().run(Numbered(0, {}), budget_of(tmp_path / "x", 16, **given))


def test_the_timesteps_are_those_of_the_paper():
    shape = SimpleNamespace(alphas=[0.5] * 1000, blocks=50)
    assert [prefix.Prefixes.timestep(shape, block) for block in (0, 1, 49)] == [10, 30, 990]
