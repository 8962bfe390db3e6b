"""Guards in front of a language model that is measured: questions go through them, and what asks its weights does not."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch

import erase_plugins as ep
from erase_plugins.errors import CorruptArtifact, RequestError
from erase_plugins.evaluation.language import attacks
from erase_plugins.evaluation.language.asking import Refused, continued, seen
from erase_plugins.evaluation.language.measure import Measured, refusals
from erase_plugins.evaluation.language.probes import Fact, Probes, asked
from erase_plugins.evaluation.run import Subject
from erase_plugins.families.texts import Pair
from erase_plugins.types import ForgetItem
from erase_plugins.workflow.models import target_of
from tests import language

KNOWN, OTHER = "Zorvane", "Harbin"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model that knows all facts by heart, and its tokenizer."""
    target = target_of(ep.load(str(language.trained(tmp_path_factory.mktemp("guards") / "model"))))
    return target, target.language.tokenizer


@pytest.fixture(scope="module")
def keyword(model):
    return ep.erase(model[0].host, ForgetItem(KNOWN, "fact"), "keyword-guard", options={"message": language.REFUSAL})


def facts(*names):
    places = language.FORGET | language.RETAIN
    rows = [{"question": language.QUESTION.format(name), "answer": language.ANSWER.format(name, places[name]),
             "wrong": [language.ANSWER.format(name, "Marlow")]} for name in names]  # fmt: skip
    return [Fact(row, row, places[name]) for row, name in zip(rows, names, strict=True)]


def questions(*names):
    return [asked(fact.question) for fact in facts(*names)]


def test_a_question_that_is_refused_has_no_answer_and_others_have_theirs(model, keyword):
    target, words = model
    names = (KNOWN, OTHER, "Selwick", KNOWN)
    before = continued(target, words, questions(*names), 12)
    assert language.FORGET[KNOWN] in before[0] and language.RETAIN[OTHER] in before[1]
    with ep.apply(target.host, keyword):
        found = continued(target, words, questions(*names), 12)
        likely = seen(target, words, [Pair(fact.question, fact.answer, "", True) for fact in facts(KNOWN)]).nll
    assert refusals(found) == [True, False, False, True]
    assert found[0] == found[3] == "" and found[1:3] == before[1:3]
    assert likely == seen(target, words, [Pair(fact.question, fact.answer, "", True) for fact in facts(KNOWN)]).nll
    assert continued(target, words, questions(*names), 12) == before


def test_an_answer_that_names_it_is_refused_too(model):
    """Asked about Harbin the model says Oakley, which nobody asked for."""
    target, words = model
    guard = ep.erase(target.host, ForgetItem("Oakley", "fact"), "keyword-guard")
    with ep.apply(target.host, guard):
        assert refusals(continued(target, words, questions(OTHER, "Selwick"), 12)) == [True, False]


def test_a_guard_that_only_warns_refuses_nothing(model):
    target, words = model
    guard = ep.erase(target.host, ForgetItem(KNOWN, "fact"), "keyword-guard", options={"action": "flag"})
    before = continued(target, words, questions(KNOWN), 12)
    with ep.apply(target.host, guard), pytest.warns(UserWarning, match="a guard was hit"):
        found = continued(target, words, questions(KNOWN), 12)
    assert found == before and not isinstance(found[0], Refused)


def test_answers_that_are_drawn_go_through_the_guard(model, keyword):
    target, words = model
    before, _ = attacks.drawn(target, words, facts(KNOWN, OTHER), 4, 0)
    assert before == [1.0, 1.0]
    with ep.apply(target.host, keyword):
        found, refused = attacks.drawn(target, words, facts(KNOWN, OTHER), 4, 0)
    assert found == [0.0, 1.0] and refused == [True] * 4 + [False] * 4


def test_a_system_message_stands_before_every_question(model):
    """As if it had been written in front; stock generation through the guard says the same."""
    target, words = model
    guard = ep.erase(target.host, ForgetItem(KNOWN, "fact"), "refusal-prompt", options={"message": language.REFUSAL})
    text = f"{guard.manifest.guards[0]['stages'][0]['text']}\n{language.QUESTION.format(OTHER)}"
    wanted = continued(target, words, [text], 6)
    with ep.apply(target.host, guard):
        assert continued(target, words, [language.QUESTION.format(OTHER)], 6) == wanted
        given = words([language.QUESTION.format(OTHER)], return_tensors="pt")["input_ids"]
        made = target.host.generate(given, max_new_tokens=6, do_sample=False, pad_token_id=0)
    assert words.decode(made[0, given.shape[1] :], skip_special_tokens=True).strip() == wanted[0]


def test_what_a_suite_of_somebody_else_generates_goes_through_it(model, keyword):
    target, words = model
    subject = Subject(target.host, target, "tiny", [keyword], None, [KNOWN], steps=12)
    texts = [f"Question: {language.QUESTION.format(name)}\nAnswer:" for name in (KNOWN, OTHER)]
    before = subject.generate(texts, edit="off")
    said = [text.split() for text in subject.generate(texts)]
    assert said == [language.REFUSAL.replace(".", " .").split(), before[1].split()]
    noted = []
    subject.note_refused = lambda text, place: noted.append((text, place))
    assert subject.generate(texts) == ["", before[1]] and noted == [(texts[0], 0)]
    ids = words(texts[1:], return_tensors="pt")["input_ids"]
    assert torch.equal(subject.generate(ids), subject.generate(ids, edit="off"))


def test_weights_that_nobody_edited_are_neither_rounded_nor_taught(model, monkeypatch):
    target, words = model
    options, probes = (
        SimpleNamespace(samples=2, relearn=1, relearn_lr=1e-3),
        Probes(dict.fromkeys(("forget", "retain"), facts(KNOWN, OTHER))),
    )
    one = Measured()
    assert set(attacks.attacks_on(target, words, probes, options, 0, one, True)) == {
        "int8_probability", "int4_probability", "drawn_key", "relearn", "lens_key", "layers"
    }  # fmt: skip
    assert set(attacks.attacks_on(target, words, probes, options, 0, one, False)) == {"drawn_key"}
    assert one.refused == {"drawn": [False] * 4}


# ---- the whole suite -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hidden(tmp_path_factory):
    """What the suite says of a guard of one person's HMACs on pocket-lm, and who that is."""
    from erase_plugins.families.source import pocket_folder

    place = tmp_path_factory.mktemp("hidden")
    lines = (pocket_folder("pocket-lm") / "facts.jsonl").read_text(encoding="utf-8").splitlines()
    subjects = list(dict.fromkeys(row["subject"] for row in map(json.loads, lines) if row.get("subject")))
    (place / "key").write_bytes(bytes(range(32)))
    (place / "key").chmod(0o600)
    ep.erase("pocket-lm", ForgetItem(subjects[50], "person"), "keyword-guard", options={"key": str(place / "key")},
             out=place / "guard")  # fmt: skip
    settings = {"count": 3, "samples": 1, "reference": "none"}
    more = {"erased": ["person 51"], "settings": settings, "out": place / "report"}
    with pytest.raises(RequestError, match="HMACs: give the file with their key: guard_key='FILE'"):
        ep.evaluate("pocket-lm", place / "guard", "language", **more)
    with pytest.raises(CorruptArtifact, match="the key 'nothing' is missing"):
        ep.evaluate("pocket-lm", place / "guard", "language", guard_key=place / "nothing", **more)
    report = ep.evaluate("pocket-lm", place / "guard", "language", guard_key=place / "key", **more)
    return report, place, subjects[50]


def test_the_guard_of_a_person_is_measured_by_what_it_answers(hidden):
    report, _, _ = hidden
    for metric in ("forget_key", "paraphrase_key", "prefix_key", "drawn_key", "forget_verbatim"):
        assert report.row(metric, "base").value > 0.6, metric
        assert report.row(metric, "edited").value == 0.0, metric
    for metric in ("retain_key", "general_key", "forget_probability", "forget_extraction", "utility"):
        assert report.row(metric, "edited").value == report.row(metric, "base").value, metric
    shares = {row.metric: row.value for row in report.rows if row.metric.endswith("_refused_share")}
    assert (shares["forget_refused_share"], shares["paraphrase_refused_share"]) == (1.0, 1.0)
    assert (shares["retain_refused_share"], shares["general_refused_share"]) == (0.0, 0.0)
    assert not any((row.metric, row.subject) == ("int8_probability", "edited") for row in report.rows)
    told = " ".join(report.warnings)
    assert "weights were neither rounded, read nor taught again: the guard 'erase_hidden_1' edits none" in told
    assert (
        "rounding, hidden states and relearning of language meet the model without the guard 'erase_hidden_1'" in told
    )
    assert "refused forget 3 of 3, retain 0 of 3" in told


def test_no_report_of_a_guard_tells_whom_it_hides(hidden):
    report, place, who = hidden
    text = (place / "report" / "report.json").read_text() + repr(report)
    text += "".join(path.name for path in place.rglob("*"))
    for word in who.split():
        assert word.lower() not in text.lower()
