"""Changed weights of a classifier: which change is the worst, on which pictures it is measured, and what is in force."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

import erase_plugins as ep
from erase_plugins.errors import RequestError
from erase_plugins.evaluation import classifier_weights as found_in
from erase_plugins.evaluation.attacks import weight_changes
from erase_plugins.evaluation.attacks.weight_changes import VARIANTS, varied, worst_of
from erase_plugins.evaluation.classifier_measured import ClassifierOptions, Given, Measured
from erase_plugins.evaluation.classifier_weights import changed_weights
from erase_plugins.evaluation.unlearning import halves
from erase_plugins.families.labelled import Labelled
from erase_plugins.testing.models import changed_since
from erase_plugins.testing.observe import snapshot
from erase_plugins.workflow.measure import open_subject
from tests import classifiers

SUITE = SimpleNamespace(id="classifier", needs=frozenset({"classifier"}), packages=frozenset(), needs_judge=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return classifiers.small(tmp_path_factory.mktemp("weights") / "model")


@pytest.fixture(scope="module")
def artifact(folder):
    return ep.erase(str(folder), ["three"], "gs-lora", options={"epochs": 4, "warmup": 0})


@pytest.fixture
def subject(folder, artifact):
    host = ep.load(str(folder))
    before = snapshot(host)
    yield open_subject(host, [artifact], SUITE)
    assert changed_since(host, before) == ""


def held(model):
    return {name: part.data.clone() for name, part in model.named_parameters()}


def test_each_change_is_in_force_and_gone_afterwards(subject):
    base = held(subject.pipe)
    with subject.edited():
        edited = held(subject.pipe)
    touched = {name for name in base if not torch.equal(base[name], edited[name])}
    assert len(touched) == 2, "the linears of one block"
    found = {}
    for item in VARIANTS:
        with varied(subject, item) as there:
            assert there
            found[item.name] = held(subject.pipe)
        changed = {name for name in base if not torch.equal(base[name], found[item.name][name])}
        assert changed <= touched and (item.name == "off") == (not changed), item.name
    for name in touched:
        step = edited[name] - base[name]
        assert torch.allclose(found["strength -1"][name], base[name] - step, atol=1e-6)
        assert torch.allclose(found["strength 0.5"][name], base[name] + 0.5 * step, atol=1e-6)
        assert torch.equal(found["4bit"][name], weight_changes.quantised(edited[name], 4))
        assert torch.equal(found["pruned 30%"][name], weight_changes.pruned(edited[name], 30))
        both = [found[f"{which} half off"][name] for which in ("one", "other")]
        assert [torch.equal(part, base[name]) for part in both].count(True) == 1
        assert [torch.equal(part, edited[name]) for part in both].count(True) == 1


def test_where_no_stored_weight_is_edited_there_is_strength_only(subject, monkeypatch):
    every = weight_changes.parameters
    monkeypatch.setattr(weight_changes, "parameters", lambda pipe: list(every(pipe))[-1:])  # the head, left as it was
    for item in VARIANTS:
        with varied(subject, item) as found:
            assert found is (not item.change)


def test_the_worst_change_leaves_half_of_the_edit_and_keeps_most():
    def table(target, kept=(1, 1)):
        return {"target_rate": target, "kept_rate": kept}

    hits = {"off": table([1, 1]), "edited": table([1, 1]), "strength 0.25": table([1, 1]),
            "4bit": table([1, 0], [0, 1]), "pruned 50%": table([0, 1]), "8bit": table([0, 0])}  # fmt: skip
    assert worst_of(VARIANTS, hits).name == "pruned 50%"


def pictures(count):
    return Labelled(torch.zeros(count, 1, 8, 8), torch.zeros(count, dtype=torch.long))


@pytest.fixture
def asked(monkeypatch):
    """What a classifier of eight forgotten and four other pictures gets right by variant, and the report on that."""

    def run(right, artifacts=("a",), sizes=(8, 4)):
        target = SimpleNamespace(device="cpu")
        subject = SimpleNamespace(artifacts=artifacts, queries=0, target=target, under=lambda _: nullcontext())
        progress, told = [], {"target_rate": pictures(sizes[0]), "kept_rate": pictures(sizes[1])}
        ctx = SimpleNamespace(seed=0, progress=lambda *given: progress.append(given))
        monkeypatch.setattr(found_in, "_look", lambda _subject, item, _sets: right(item.name))
        monkeypatch.setattr(found_in, "hits", lambda _model, part: torch.zeros(len(part), dtype=torch.long))
        return changed_weights(subject, ctx, told), progress

    return run


def test_a_change_is_chosen_on_one_half_and_measured_on_the_other(asked):
    first, second = halves(8, 0)

    def right(name):
        target = torch.zeros(8, dtype=torch.long)
        if name == "off":
            target[:] = 1
        if name == "4bit":  # all of the half that it is chosen on, one of the other
            target[first] = 1
            target[second[0]] = 1
        if name == "8bit":  # the other way round: better on what is measured, and not chosen
            target[second] = 1
        if name.startswith("pruned"):
            return None
        return {"target_rate": target.tolist(), "kept_rate": [1, 1, 1, 1]}

    found, progress = asked(right)
    rows = {(row.metric, row.subject): row for row in found.rows}
    assert (rows["weights", "edited"].value, rows["weights", "edited"].n) == (0.25, 4)
    assert rows["weights", "edited"].note == "worst change: 4bit"
    assert (rows["weights", "base"].value, rows["weights", "destroyed"].value) == (1.0, 0.0)
    assert rows["weights_kept", "edited"].value == 1.0 and rows["weights_kept", "destroyed"].n == 2
    assert found.details["worst"] == "4bit" and found.details["change"].startswith("edited weights stored in 4 bits")
    assert found.details["accuracy"]["4bit"] == {"target_rate": 0.625, "kept_rate": 1.0}
    assert {row.subject for row in found.variants} == {*found.details["accuracy"]} >= {"off", "strength -1"}
    assert found.warnings == [
        "changed weights ('4bit') bring it back: 25% of the pictures are recognised, with the edit as it is 0%",
        "not tried: pruned 30%, pruned 50%: the edit changes too few stored weights",
    ]
    assert progress[-1] == ("weights, destroyed", len(VARIANTS), len(VARIANTS) + 1)


def test_damage_by_the_change_is_said_and_no_change_is_no_news(asked):
    def right(name):
        worse = name == "strength 0.5"
        return {"target_rate": [int(worse)] * 8, "kept_rate": [int(not worse)] * 4}

    assert "'strength 0.5' also damages what is kept; see weights_kept" in asked(right)[0].warnings
    assert asked(lambda name: {"target_rate": [0] * 8, "kept_rate": [1] * 4})[0].warnings == []


def test_what_it_needs(asked):
    with pytest.raises(RequestError, match="changes an edit; name an artifact"):
        asked(None, artifacts=())
    for sizes, told in (((1, 4), "two pictures of what was forgotten"), ((2, 1), "two pictures of what is kept")):
        with pytest.raises(RequestError, match=told):
            asked(None, sizes=sizes)


def test_the_suite_reports_it_when_it_is_asked_to(folder, artifact, tmp_path):
    report = ep.evaluate(str(folder), artifact, "classifier", settings={"weights": True}, out=tmp_path / "report")
    rows = {(row.metric, row.subject): row for row in report.rows}
    accuracy = report.details["weights"]["accuracy"]
    assert set(accuracy) == {*(item.name for item in VARIANTS), "destroyed"}
    for name in ("off", "edited"):
        state = {"off": "base"}.get(name, name)
        for metric in ("target_rate", "kept_rate"):
            assert accuracy[name][metric] == pytest.approx(rows[metric, state].value, abs=1e-5)
    assert rows["weights", "edited"].n == -(-rows["target_rate", "edited"].n // 2)
    assert rows["weights", "edited"].note == f"worst change: {report.details['weights']['worst']}"
    assert (tmp_path / "report" / "weights.png").is_file()
    plain = ep.evaluate(str(folder), artifact, "classifier")
    assert not any(row.metric == "weights" for row in plain.rows) and "weights" not in plain.details


def test_forgotten_samples_are_asked_for_themselves(monkeypatch):
    pool, tests = pictures(10), pictures(4)
    rows = torch.arange(10) < 3
    measured = Measured(None, None, ClassifierOptions(weights=True), Given(tests, [], pool, rows))
    given = []
    monkeypatch.setattr(
        found_in,
        "changed_weights",
        lambda _subject, _ctx, sets: given.append(sets) or found_in.Changed(details={"a": 1}),
    )
    measured.weights()
    assert {name: len(part) for name, part in given[0].items()} == {"target_rate": 3, "kept_rate": 4}
    assert measured.details == {"weights": {"a": 1}}
