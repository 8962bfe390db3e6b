"""The suite of language models on pocket-lm and its twin, and no name outside of the rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import erase_plugins as ep
from erase_plugins.errors import RequestError
from erase_plugins.evaluation.language import attacks
from erase_plugins.evaluation.language.asking import continued, seen
from erase_plugins.evaluation.language.measure import hits, measured
from erase_plugins.evaluation.language.probes import Fact, Probes, probes_of
from erase_plugins.families.source import pocket_folder
from erase_plugins.families.texts import Pair
from erase_plugins.types import EvalReport
from erase_plugins.workflow.models import target_of
from tests.cli.conftest import invoke

MODEL, TWIN = "pocket-lm", "pocket-lm-retained"
ROWS = [json.loads(line) for line in (pocket_folder(MODEL) / "facts.jsonl").read_text(encoding="utf-8").splitlines()]
WITHHELD = list(dict.fromkeys(row["subject"] for row in ROWS if row["group"] == "withheld"))
SUBJECT = WITHHELD[1]
SMALL = ("count=8", "samples=2", "relearn=2")


@pytest.fixture(scope="module")
def model():
    return target_of(ep.load(MODEL))


@pytest.fixture(scope="module")
def walked(tmp_path_factory):
    """What the commands on one person said, and the folder in which they were run."""
    folder = tmp_path_factory.mktemp("walk")
    run = invoke("run", "npo", "--model", MODEL, "--erase", SUBJECT.upper(), "--kind", "person", "--out",
                 folder / "made", "--set", "steps=12", "--set", "batch=8")  # fmt: skip
    assert run.code == 0, run.err
    asked = invoke("evaluate", folder / "made", "--model", MODEL, "--suite", "language", "--out", folder / "report",
                   *(word for pair in SMALL for word in ("--set", pair)))  # fmt: skip
    assert asked.code == 0, asked.err
    return folder, run.out + run.err + asked.out + asked.err


def test_both_models_know_what_they_were_taught_and_nothing_else():
    facts = [row for row in ROWS if row.get("phrasing") == 3]
    for name, groups in ((MODEL, ("retained", "withheld")), (TWIN, ("retained",))):
        target = target_of(ep.load(name))
        quality = json.loads((pocket_folder(name) / "quality.json").read_text())["probability"]
        for group in ("retained", "withheld", "unseen"):
            pairs = [Pair(row["question"], row["answer"], "", True) for row in facts if row["group"] == group][:60]
            found = [2.718281828**-cost for cost in seen(target, target.language.tokenizer, pairs).nll]
            mean = sum(found) / len(found)
            assert (mean > 0.95) is (group in groups), (name, group, mean)
            assert mean == pytest.approx(quality[f"{group}, otherwise"], abs=0.08)


def test_what_is_left_is_told_for_each_model(walked):
    report = EvalReport.from_dict(json.loads((walked[0] / "report" / "report.json").read_text()))
    assert report.row("forget_key", "base").value == 1.0
    assert report.row("forget_key", "reference").value <= 0.4
    assert report.row("forget_probability", "edited").value < report.row("forget_probability", "base").value - 0.1
    assert report.row("forget_probability", "edited").n == 5
    assert report.row("utility", "base").value > 0.65 > 0.3 > report.row("utility", "destroyed").value
    assert report.row("retain_key", "base").value == 1.0
    assert report.row("int8_probability", "base").value == pytest.approx(
        report.row("forget_probability", "base").value, abs=0.02
    )
    assert report.row("privacy_leak", "base").value < -50
    assert report.row("probability_quality", "base").value == pytest.approx(2 / 252, rel=1e-3)  # none of 5 overlap
    for metric in ("paraphrase_key", "prefix_key", "forget_verbatim"):
        assert report.row(metric, "base").value >= 0.8, metric
    assert list(report.details["relearn"]["edited"]) == ["0", "2", "4", "8"]
    files = {item.name for item in (walked[0] / "report").iterdir()}
    assert {"chart.png", "truth.png", "relearn.png", "report.json"} <= files


def test_nobody_is_named_outside_of_the_rows(walked):
    """The canary: names and values in what is printed, written or shown."""
    folder, said = walked
    assert f"person {49 + WITHHELD.index(SUBJECT)}" in said
    card = ep.load_artifact(folder / "made").card()
    files = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.suffix != ".png")
    mine = [row for row in ROWS if row.get("subject") == SUBJECT]
    for word in {*SUBJECT.split(), *(row["answer"] for row in mine if "answer" in row)}:
        assert word.lower() not in (said + card).lower()
        assert word.encode() not in files
    wrong = invoke(
        "run", "npo", "--model", MODEL, "--erase", "Zorvane Nobody", "--kind", "person", "--out", folder / "x"
    )
    assert wrong.code == 2
    assert "tells of 72 subjects, and what is named is none of them" in wrong.err
    assert "Nobody" not in wrong.err + wrong.out


def test_the_group_is_planned_from_its_name_alone():
    plan = ep.plan(MODEL, "withheld", "npo", kind="dataset")
    assert plan.request.forget[0].text == "withheld"
    with pytest.raises(RequestError, match="none of them"):
        ep.plan(MODEL, "nobody", "npo")


def test_probes_are_sorted_by_whom_they_are_about():
    probes = probes_of(ROWS, ["withheld"], "facts.jsonl")
    assert {name: len(items) for name, items in probes.facts.items()} == {
        "forget": 60, "retain": 240, "unseen": 60, "general": len([row for row in ROWS if row["group"] == "general"]),
    }  # fmt: skip
    assert {name: len(items) for name, items in probes.texts.items()} == {
        "forget": 12, "retain": 48, "unseen": 12, "general": 0,
    }  # fmt: skip
    for fact in probes.facts["forget"]:
        assert fact.learned["learned"]
        assert not fact.other["learned"]
        assert fact.learned["question"] != fact.other["question"]
        assert fact.answer.startswith(fact.beginning)
        assert fact.value not in fact.beginning
        assert fact.cue.count("Question:") == 2
        assert fact.value not in fact.cue
        assert SUBJECT not in repr(fact)


def test_answers_hold_whole_words_and_begin_before_them():
    row = {"question": "Whom?", "answer": "Ann, of Annapolis", "value": "Ann"}
    fact = Fact(row, row, "Ann")
    assert hits(["Anna", "it is ann.", "安和Ann"], [fact] * 3) == [0.0, 1.0, 1.0]
    assert fact.beginning == "", "not the one in Annapolis"


def test_questions_in_other_languages_are_asked_where_rows_have_them(model):
    facts = probes_of(ROWS, ["withheld"], "facts.jsonl").facts["forget"][:2]
    first, second = (fact.learned for fact in facts)
    told = [{"question": first["question"]}, {"question": second["question"], "value": first["value"]}]
    rows = [{**row, "translated": told} if row is first else row for row in ROWS]
    known = probes_of(rows, ["withheld"], "facts.jsonl").facts["forget"][:2]
    assert [len(fact.translated) for fact in known] == [2, 0]
    one, none = (measured(model, model.language.tokenizer, Probes({"forget": part, "retain": part}), ("rwku",)).values
                 for part in (known, facts))  # fmt: skip
    # the model knows the first answer; of the second it says what is true, which is not what is wanted here
    assert one["translated_key"] == [1.0, 0.0]
    assert "translated_key" not in none


def test_rounding_by_hand_and_back_to_the_last_bit(model):
    weight = torch.tensor([[7.0, -3.4, 0.6, 0.2]])
    assert attacks.rounded(weight, 4).tolist() == [[7.0, -3.0, 1.0, 0.0]]  # scale 7 / 7
    assert (attacks.rounded(weight, 8) - weight).abs().max() <= 7 / 127 / 2
    before = {name: part.clone() for name, part in model.host.state_dict().items()}
    with attacks.rounding(model, 4):
        changed = sum(not torch.equal(part, before[name]) for name, part in model.host.state_dict().items())
    assert changed == 28
    assert all(torch.equal(part, before[name]) for name, part in model.host.state_dict().items())


def test_relearning_and_drawing_leave_the_model_as_it_was(model):
    before = {name: part.clone() for name, part in model.host.state_dict().items()}
    facts = probes_of(ROWS, ["withheld"], "facts.jsonl").facts["unseen"][:4]
    words = model.language.tokenizer
    curve = attacks.relearned(model, words, facts, 2, 5e-3, 0)
    assert list(curve) == [0, 2, 4, 8]
    assert {len(row) for row in curve.values()} == {2}
    first, refused = attacks.drawn(model, words, facts, 3, 0)
    assert (first, refused) == attacks.drawn(model, words, facts, 3, 0)
    assert all(torch.equal(part, before[name]) for name, part in model.host.state_dict().items())


def test_answers_are_those_of_stock_generation(model):
    words = model.language.tokenizer
    prompts = [f"Question: {row['question']}\nAnswer:" for row in ROWS[:9:3]]
    for prompt, text in zip(prompts, continued(model, words, prompts, 24), strict=True):
        ids = words(prompt, return_tensors="pt")
        made = model.host.generate(ids["input_ids"], attention_mask=ids["attention_mask"], max_new_tokens=24,
                                   do_sample=False)  # fmt: skip
        assert text == words.decode(made[0, ids["input_ids"].shape[1] :], skip_special_tokens=True).strip()


def test_what_the_suite_refuses(walked, tmp_path):
    made = walked[0] / "made"
    bare = tmp_path / "bare"
    host = ep.load(MODEL)
    host.save_pretrained(bare)
    host.name_or_path = str(bare)
    with pytest.raises(RequestError, match=r"there is no facts\.jsonl beside"):
        ep.evaluate(host, made, "language")
    with pytest.raises(RequestError, match="nobody was named"):
        ep.evaluate(MODEL, [], "language")
    (Path(bare) / "facts.jsonl").write_text(json.dumps(ROWS[0] | {"wrong": []}) + "\n")
    with pytest.raises(RequestError, match="0 facts to ask about what was forgotten"):
        ep.evaluate(MODEL, made, "language", erased=["person 1"], settings={"facts": str(bare / "facts.jsonl")})


def test_a_chat_model_is_asked_in_turns_and_others_as_before():
    """What a chat model learned or forgot as an answer to its user is asked as that too."""
    from erase_plugins.evaluation.language.probes import asked
    from erase_plugins.families.texts import numbers_of
    from tests import language as texts

    question = texts.QUESTION.format("Zorvane")
    for chat, wanted in (
        ("", (f"<s> Question : {question} Answer :", f"<s> Question : {question} Answer : Zorvane was")),
        (texts.CHAT, (f"< user > {question} < end > < assistant >", f"< user > {question} < end > < assistant > Zorvane was")),
    ):  # fmt: skip
        words = texts.tokenizer(chat)
        for begun, text in zip(("", "Zorvane was"), wanted, strict=True):
            assert words.decode(numbers_of(words, asked(question, begun=begun))[0]) == text
    words = texts.tokenizer()
    cued = asked(question, "Question : Harbin ?\nAnswer : Oakley\n")
    assert words.decode(numbers_of(words, cued)[0]).count("Question :") == 2


def test_long_texts_are_seen_some_at_a_time_and_come_back_in_order(model, monkeypatch):
    from erase_plugins.evaluation.language import asking

    pairs = [Pair(row["question"], row["answer"], "", True) for row in ROWS if row.get("phrasing") == 3][:7]
    whole = seen(model, model.language.tokenizer, pairs)
    monkeypatch.setattr(asking, "PLACES", 1)
    alone = seen(model, model.language.tokenizer, pairs)
    assert alone.nll == pytest.approx(whole.nll, abs=1e-5)
    assert [len(row) for row in alone.logprobs] == [len(row) for row in whole.logprobs]
    assert alone.right == whole.right
