"""The suite ``speed``: what is timed, what is not counted, and that nothing of it stays in the model."""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

import erase_plugins as ep
from erase_plugins.evaluation.bootstrap import median_interval
from erase_plugins.evaluation.context import SuiteContext
from erase_plugins.evaluation.speed import STATES, WARM_UPS, SpeedSuite, timed

MIB = 2**20


class Clock:
    """A clock that goes on only while a picture is drawn."""

    def __init__(self, *costs):
        self.now, self.costs, self.drawn = 0.0, list(costs), []

    def draw(self, seed):
        self.drawn.append(seed)
        self.now += self.costs.pop(0)

    def __call__(self):
        return self.now


def test_pictures_before_the_first_that_is_timed_are_not_counted():
    clock = Clock(*[100.0] * WARM_UPS, 1.0, 2.0, 4.0)
    assert timed(clock.draw, [7, 8, 9], clock) == [1.0, 2.0, 4.0]
    assert clock.drawn == [7] * WARM_UPS + [7, 8, 9]


def test_the_median_lies_in_its_interval_and_does_not_follow_one_slow_picture():
    value, low, high = median_interval([1.0] * 9 + [50.0])
    assert (value, low, high) == (1.0, 1.0, 1.0)
    value, low, high = median_interval([float(number) for number in range(1, 12)])
    assert value == 6.0 and 1.0 < low < 6.0 < high < 11.0


class Pretended:
    """As much of a subject as the suite looks at; says in which state what was drawn."""

    model, strength, seed, queries, steps, guidance, pipe = "none", 1.0, 3, 0, 8, 4.0, None

    def __init__(self, device="cpu", erased=("owl",), guards=()):
        self.target = SimpleNamespace(device=torch.device(device), dtype=torch.float32)
        self.artifacts = [SimpleNamespace(name="no-owl", manifest=SimpleNamespace(guards=guards))]
        self.erased, self.state, self.drawn, self.entered = list(erased), None, {}, []

    @contextmanager
    def under(self, edit, strength=None):
        self.state = (edit, strength)
        self.entered.append(self.state)
        yield
        self.state = None

    def draw(self, prompts, seeds):
        self.drawn.setdefault(self.state, []).extend(zip(prompts, seeds, strict=True))


def measured(tmp_path, subject):
    return SpeedSuite().run(subject, SuiteContext(seed=0, device="cpu", work=tmp_path, options={"pictures": 10}))


def test_every_state_draws_the_same_with_the_edit_off_at_nothing_and_on(tmp_path):
    subject = Pretended()
    report = measured(tmp_path, subject)
    seeds = [3] * WARM_UPS + [3, 4, 5, 6, 7] + [8] * WARM_UPS + [8, 9, 10, 11, 12]
    pictures, states = [("an owl", seed) for seed in seeds], [("off", None), ("on", 0.0), ("on", None)]
    assert subject.drawn == dict.fromkeys(states, pictures)
    assert subject.entered == [*states, *reversed(states)], "a machine that gets slower would tell them apart"
    assert [(row.metric, row.subject, row.n) for row in report.rows] == [
        ("seconds_per_picture", name, 10) for name in ("base", "strength0", "edited")
    ]
    assert subject.queries == 3 * (10 + 2 * WARM_UPS)


@pytest.mark.parametrize("given", [{"guards": ("keyword",)}, {"erased": ()}])
def test_no_concept_is_named_where_a_guard_would_refuse_it_or_none_is_known(tmp_path, given):
    report = measured(tmp_path, Pretended(**given))
    assert report.details["prompts"] == {"timed": ["a picture"]}


def test_on_cuda_each_state_says_the_peak_since_it_began(tmp_path, monkeypatch):
    peaks, calls = iter([512, 513, 600, 599, 512, 511]), []

    def peak(device):
        calls.append("asked")
        return next(peaks) * MIB

    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: calls.append("waited"))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: calls.append("reset"))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", peak)
    report = measured(tmp_path, Pretended("cuda"))
    assert [report.row("peak_memory_mib", name).value for name in STATES] == [512, 513, 600]
    assert calls == ["reset", *["waited"] * (5 + WARM_UPS), "asked"] * 6


def test_on_the_embedded_model(pocket_pipe, pocket_target, tmp_path):
    weights = {name: value.clone() for name, value in pocket_pipe.unet.state_dict().items()}
    artifact = ep.erase(pocket_target, "pizza")
    report = ep.evaluate(pocket_pipe, artifact, "speed", out=tmp_path / "r", steps=1)
    assert all(0 < row.low <= row.value <= row.high for row in report.rows) and len(report.rows) == len(STATES)
    assert report.judge == "" and all(len(found) == 10 for found in report.details["seconds"].values())
    assert all(torch.equal(value, weights[name]) for name, value in pocket_pipe.unet.state_dict().items())
    with pytest.raises(ep.errors.EraseError, match="pictures"):
        ep.evaluate(pocket_pipe, artifact, "speed", settings={"pictures": 9})
