"""What the language suite makes of numbers and answers that are known: rows, warnings, attacks, ways of asking."""

from __future__ import annotations

import math

import pytest
import torch

import erase_plugins as ep
from erase_plugins.evaluation.language import attacks, measure, suite
from erase_plugins.evaluation.language.asking import seen
from erase_plugins.evaluation.language.measure import Measured, measured
from erase_plugins.evaluation.language.probes import Fact, Probes, probes_of
from erase_plugins.evaluation.language.suite import _row, _warnings, report_rows
from erase_plugins.families.texts import Pair, tokenizer_of
from erase_plugins.workflow.models import target_of
from tests import language
from tests.training.test_language import other


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """An untrained model, and its tokenizer."""
    target = target_of(ep.load(str(other("llama", tmp_path_factory.mktemp("rows") / "model"))))
    return target, tokenizer_of(target)


def fact(name="Zorvane", place="Ymbrook", cue=""):
    row = {"question": language.QUESTION.format(name), "answer": language.ANSWER.format(name, place),
           "wrong": [language.ANSWER.format(name, town) for town in ("Ashford", "Marlow")]}  # fmt: skip
    return Fact(row, row, place, cue)


def test_rows_compare_with_the_reference_and_relearning_ends_at_its_last_look():
    def one(p, auc):
        return Measured({"forget_probability": p, "forget_ratio": [1.0, 2.0]}, {"auc": auc}, {"forget": p, "unseen": p})

    found = {"base": one([1.0, 0.8], 1.0), "edited": one([0.5, 0.3], 0.6), "reference": one([0.5, 0.3], 0.5)}
    curve = {0: [0.1, 0.1], 2: [0.2, 0.4], 8: [0.9, 0.7]}
    rows = {(row.metric, row.subject): row.value for row in report_rows(found, {"edited": {"relearn": curve}}, 0)}
    assert rows["relearned_probability", "edited"] == pytest.approx(0.8)
    assert rows["forget_probability", "base"] == pytest.approx(0.9)
    assert not any(metric.endswith("ratio") for metric, _ in rows)
    assert [rows["privacy_leak", name] for name in ("base", "edited")] == pytest.approx([-100, -20])
    assert rows["probability_quality", "edited"] == rows["forget_quality", "base"] == 1.0
    assert rows["probability_quality", "base"] == pytest.approx(1 / 3, rel=1e-5)  # 2 of 6 orders keep both apart
    assert ("privacy_leak", "reference") not in rows


GOOD = {
    ("forget_key", "base"): 1.0, ("forget_key", "reference"): 0.1, ("utility", "base"): 0.8, ("utility", "edited"): 0.78,
    ("utility", "destroyed"): 0.3, ("forget_extraction", "edited"): 0.21, ("forget_extraction", "reference"): 0.2,
    ("relearned_probability", "edited"): 0.3, ("relearned_probability", "reference"): 0.25,
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({}, ""),
        ({("forget_key", "base"): 0.4}, "knows fewer than half"),
        ({("forget_key", "reference"): 0.6}, "so it is none"),
        ({("utility", "destroyed"): 0.41}, "do not trust it"),
        ({("utility", "edited"): 0.76}, "others are damaged"),
        ({("utility", "edited"): 0.9}, ""),
        ({("forget_extraction", "edited"): 0.23}, "more can be extracted"),
        ({("relearned_probability", "edited"): 0.36}, "hidden, not gone"),
    ],
)
def test_what_numbers_warn_of(change, told):
    rows = [_row(metric, subject, (value,) * 3, 1) for (metric, subject), value in (GOOD | change).items()]
    found = _warnings(rows, "a twin")
    assert len(found) == bool(told)
    assert told in "".join(found)


def test_without_a_reference_it_says_what_is_not_known():
    rows = [
        _row(metric, subject, (value,) * 3, 1) for (metric, subject), value in GOOD.items() if subject != "reference"
    ]
    (told,) = _warnings(rows, None)
    assert "no model that never knew" in told


def test_one_drawn_answer_of_many_is_enough(monkeypatch):
    facts = [fact(), fact("Harbin", "Oakley")]
    said = ["nowhere", "in Ymbrook .", "who knows", "in Ymbrook", "Ashford", ""]
    monkeypatch.setattr(attacks, "continued", lambda *given: said)
    assert attacks.drawn(None, None, facts, 3, 0)[0] == [1.0, 0.0]


def test_every_32_weights_have_a_scale_of_their_own():
    """7 and 0.5 as the largest of their blocks: steps of 1 and 1/14 with four bits."""
    weight = torch.zeros(2, 32)
    weight[0, :3], weight[1, :2] = torch.tensor([7.0, 0.4, 0.6]), torch.tensor([0.5, 0.1])
    found = attacks.rounded(weight, 4)
    assert found[0, :3].tolist() == [7.0, 0.0, 1.0]
    assert found[1, :2].tolist() == pytest.approx([0.5, 1 / 14])


def test_the_end_of_an_answer_counts_in_its_likelihood_and_not_in_what_min_k_looks_at(model):
    target, tokenizer = model
    pair = Pair(language.QUESTION.format("Zorvane"), "Zorvane was born .", "row", True)
    found = seen(target, tokenizer, [pair])
    ids = tokenizer(f"Question: {pair.prompt}\nAnswer: {pair.completion}")["input_ids"] + [tokenizer.eos_token_id]
    with torch.no_grad():
        logits = target.language.logits(torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.long))[0]
    costs = torch.nn.functional.cross_entropy(logits[-6:-1], torch.tensor(ids[-5:]), reduction="none")
    assert found.nll == pytest.approx([float(costs.mean())], rel=1e-5)
    assert found.logprobs[0] == pytest.approx((-costs[:-1]).tolist(), rel=1e-5)
    assert found.right == [(logits[-6:-2].argmax(-1) == torch.tensor(ids[-5:-1])).tolist()]


def test_ways_of_asking_are_what_they_are_called(model, monkeypatch):
    """What is asked, and that a text is scored by F1: a model that goes on too long does not have it word by word."""
    asked, text = [], " ".join(f"w{number}" for number in range(20))

    def continued(_model, _tokenizer, prompts, count, generator=None):
        asked.append(list(prompts))
        return [" ".join(text.split()[measure.GIVEN :]) + " more" * 12 if item == text[: text.index(" w8")] else
                f"in {place} ." for item, place in zip(prompts, ("Ymbrook", "Nowhere"), strict=False)]  # fmt: skip

    monkeypatch.setattr(measure, "continued", continued)
    facts = [fact(cue="Question: who ?\nAnswer: Harbin\n"), fact("Harbin", "Oakley")]
    probes = Probes({"forget": facts, "retain": facts[1:]}, {"forget": [text], "retain": []})
    values = measured(*model, probes, ("muse", "rwku")).values
    assert values["forget_verbatim"] == pytest.approx([2 * 0.5 / 1.5])  # all of 12 words, 24 said
    for way in ("paraphrase", "prefix", "cloze", "cue"):
        assert values[f"{way}_key"] == [1.0, 0.0]
    paraphrase, prefix, cloze, cue = asked[-4:]
    assert (paraphrase[0].prompt, paraphrase[0].begun) == (facts[0].question, "")
    assert (prefix[0].prompt, prefix[0].begun) == (facts[0].question, " Zorvane was born in")
    assert cloze == ["Zorvane was born in", "Harbin was born in"]
    assert cue[0].prompt.startswith("Question: who ?\nAnswer: Harbin\n")
    assert facts[0].question in cue[0].prompt


def test_the_truth_of_what_is_forgotten_is_best_at_equal_odds(model, monkeypatch):
    """R = p(true) / geometric mean of p(wrong) = 2 and 1/4: min(R, 1/R) there, max(0, 1 - 1/R) of what is retained."""
    costs = {
        language.ANSWER.format("Zorvane", "Ymbrook"): math.log(2),
        language.ANSWER.format("Harbin", "Oakley"): math.log(16),
    }

    def seen(_model, _tokenizer, pairs):
        nll = [costs.get(pair.completion, math.log(4)) for pair in pairs]
        return measure.Seen(nll, [[-value] for value in nll], [[True]] * len(nll))

    monkeypatch.setattr(measure, "seen", seen)
    monkeypatch.setattr(measure, "continued", lambda _model, _tokenizer, prompts, count: ["."] * len(prompts))
    facts = [fact(), fact("Harbin", "Oakley")]
    found = measured(*model, Probes({"forget": facts, "retain": facts}), ("tofu",)).values
    assert found["forget_truth"] == pytest.approx([0.5, 0.25])
    assert found["retain_truth"] == pytest.approx([0.5, 0.0])
    assert found["forget_probability"] == pytest.approx([0.5, 1 / 16])


def test_rows_that_do_not_say_that_they_were_learned_were():
    rows = [{"subject": name, "question": "?", "answer": f"in {place}", "value": place, "wrong": ["in Marlow"], **more}
            for name, place, more in (("Zorvane", "Ymbrook", {}), ("Harbin", "Oakley", {}),
                                      ("Selwick", "Thornby", {"learned": False}))]  # fmt: skip
    facts = probes_of(rows, ["person 1"], "facts.jsonl").facts
    assert {name: [item.value for item in part] for name, part in facts.items()} == {
        "forget": ["Ymbrook"], "retain": ["Oakley"], "unseen": ["Thornby"], "general": [],
    }  # fmt: skip


def test_what_was_measured_of_one_person_is_not_told_of_another(tmp_path, monkeypatch):
    """The base is measured once for all artifacts, and anew for other facts."""
    folder = language.trained(tmp_path / "model", steps=1)
    rows = [{**row, "subject": name, "value": place, "wrong": [language.ANSWER.format(name, "Marlow")]}
            for (name, place), row in zip(language.FORGET.items(), language.rows(language.FORGET), strict=True)]  # fmt: skip
    facts = language.write(tmp_path / "facts.jsonl", rows)
    asked = []

    def counted(_model, _tokenizer, probes, parts):
        asked.append([item.value for item in probes.facts["forget"]])
        return Measured({"forget_probability": [0.5]}, {}, {})

    monkeypatch.setattr(measure, "measured", counted)
    monkeypatch.setattr(suite, "_CACHE", type(suite._CACHE)())
    settings = {"facts": str(facts), "attacks": False, "reference": "none"}
    host = ep.load(str(folder))
    for name in ("person 1", "person 1", "person 2"):
        ep.evaluate(host, [], "language", erased=[name], settings=settings)
    assert asked.count(["Ymbrook"]) == 2 + 1 + 1  # base and destroyed once, the edited model every time
    assert asked.count(["Astervale"]) == 3
