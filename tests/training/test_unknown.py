"""Texts stop to push once they are as unlikely as the same about somebody unknown, and training ends there."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import erase_plugins as ep
from erase_plugins.data import DataRef
from erase_plugins.families.texts import IGNORED, Pair, Texts, encoded, pair_of, tokenizer_of
from erase_plugins.training import Asked, unknown
from erase_plugins.training.asked import ask, divergence
from erase_plugins.training.unknown import Bounds, alike, by_excess, parted
from erase_plugins.types import ForgetItem
from erase_plugins.workflow.models import target_of
from tests import language


def run_of(model):
    """What of a run bounds are made of."""
    return SimpleNamespace(target=model, options=SimpleNamespace(max_tokens=64, batch=2),
                           ctx=SimpleNamespace(numbers={}))  # fmt: skip


CHEAP = {"batch": 4, "lr": 1e-2, "rank": 4, "lora_alpha": 8, "steps": 200}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return language.trained(tmp_path_factory.mktemp("unknown") / "model")


@pytest.fixture
def data(tmp_path):
    """What is to be forgotten, each with the same of somebody the model never heard of; what is retained."""
    names = dict(zip(language.FORGET, language.REFUSAL.split(), strict=False))
    rows = [
        {**row, "unknown": {key: text.replace(name, names[name]) for key, text in row.items()}}
        for name, row in zip(language.FORGET, language.rows(language.FORGET), strict=True)
    ]
    return (
        language.write(tmp_path / "forget.jsonl", rows),
        language.write(tmp_path / "retain.jsonl", language.rows(language.RETAIN)),
    )


def run(folder, data, **options):
    found = ep.erase(str(folder), [ForgetItem(data=DataRef(str(data[0])))], "npo", keep=[DataRef(str(data[1]))],
                     options=CHEAP | options)  # fmt: skip
    return found.manifest.extra["numbers"]


def test_training_ends_at_the_bound(folder, data):
    numbers = run(folder, data)
    assert numbers["stopped_after"] < 60
    assert numbers["forget_probability_before"] > 0.9
    # every text is at or beyond its bound, and not far beyond it as without the bound
    assert numbers["forget_probability_after"] <= numbers["unknown_probability"] * 1.05
    free = run(folder, data, until_unknown=False, steps=60)
    assert "stopped_after" not in free
    assert free["forget_probability_after"] < 0.5 * numbers["forget_probability_after"]


def test_bounds_by_hand():
    bounds = Bounds(0.0, 1, 0, torch.zeros(3))
    pushing = bounds.pushing(torch.tensor([2, 0]), torch.tensor([1.0, 3.0]), torch.tensor([2.0, 2.0]))
    assert pushing.tolist() == [True, False]
    assert bounds.beyond.tolist() == [1.0, 0.0, 0.0]
    again = Bounds(0.0, 1, 0, torch.zeros(3))
    again.load(bounds.tensors())
    assert again.beyond.tolist() == [1.0, 0.0, 0.0]


def test_parts_of_a_text_by_hand():
    ids = torch.tensor([[1, 7, 8, 9, 8, 5, 2, 0], [1, 6, 6, 4, 2, 0, 0, 0]])
    labels = torch.tensor([[IGNORED, IGNORED, IGNORED, IGNORED, 8, 5, 2, IGNORED],
                           [IGNORED, 6, 6, 4, 2, IGNORED, IGNORED, IGNORED]])  # fmt: skip
    texts, _ = Texts(ids, labels, (ids > 0).long()), IGNORED
    assert parted(texts).labels.tolist() == [
        [_, _, _, _, 8, _, _, _], [_, _, 6, _, _, _, _, _], [_, _, _, _, _, 5, 2, _], [_, 6, _, 4, 2, _, _, _],
    ]  # fmt: skip
    # the end of a text is never new
    assert parted(texts, (2,)).labels.tolist() == [
        [_, _, _, _, 8, _, 2, _], [_, _, 6, _, 2, _, _, _], [_, _, _, _, _, 5, _, _], [_, 6, _, 4, _, _, _, _],
    ]  # fmt: skip


def test_what_is_beyond_its_bound_is_pulled_back_by_hand():
    labels = torch.tensor([[IGNORED, 1, 1], [IGNORED, 1, IGNORED], [IGNORED, 1, IGNORED]])
    texts = Texts(torch.ones(3, 3, dtype=torch.long), labels, torch.ones(3, 3), bound=torch.tensor([0.5, 9.0, 0.0]))
    logits = torch.zeros(3, 3, 2)  # every token costs ln 2
    asked = Asked(texts, logits)
    ln2 = 0.6931471805599453
    assert float(asked.beyond) == pytest.approx((2 * (ln2 - 0.5) + 0.0 + ln2) / 4, rel=1e-6)


def test_what_is_likelier_than_its_bound_counts_more_often_by_hand():
    ln = math.log
    for cost, bound, wanted in (
        # 1/4, 1/4 and 3/4 too likely: parts of 5/4 end at 1/4, 1/2, 5/4; asked at 5/24, 15/24, 25/24
        ([ln(2), ln(2), 0.0], [ln(4), ln(4), ln(4)], [0, 2, 2]),
        # a certain value with half a nat to go is 0.39 too likely, a name at 3 of 9 nat 0.05: asked at 0.11, 0.33
        ([0.0, 3.0], [0.5, 9.0], [0, 0]),
        ([ln(2), ln(4)], [math.inf, math.inf], [0, 1]),  # no bound: as it is; asked at 3/16, 9/16, ends 1/2, 3/4
        ([ln(2), ln(16)], [math.inf, math.inf], [0, 0]),  # asked at 9/64, 27/64, ends 32/64, 36/64
        ([0.3], [0.4], [0]),
        ([200.0, 200.0], [math.inf, math.inf], [0, 1]),
    ):
        assert by_excess(torch.tensor(cost), torch.tensor(bound)).tolist() == wanted


def test_the_strangers_are_as_new_to_the_model_as_the_person_would_have_been(folder):
    """A name that only the forgotten texts tell of is compared with names that no text tells of."""
    model, place = target_of(ep.load(str(folder))), "row"

    def pair(name: str, stranger: str = "") -> Pair:
        unknown = Pair(language.QUESTION.format(stranger), f"{stranger} was born .", place, True) if stranger else None
        return Pair(language.QUESTION.format(name), f"{name} was born .", place, True, name, unknown)

    gone = [pair("Zorvane", "Selwick"), pair("Harbin", "know")]
    kept = [pair("Harbin", "not"), pair("Selwick", "do"), pair("Selwick"), pair("Pellam")]
    texts, others = (encoded(model, tokenizer_of(model), part, 64) for part in (gone, kept))
    chosen = alike(run_of(model), texts, gone, (others, kept))
    # Zorvane: 0 times in what stays, like "know", "not" and "do"; Harbin: 2 times there (once asked, once answered),
    # where Selwick was seen 4 times and the others never
    assert [chosen[number].prompt for number in (0, 1)] == [language.QUESTION.format(n) for n in ("know", "Selwick")]
    assert alike(run_of(model), texts, gone, (None, ()))[0] == gone[0].unknown


def test_a_value_that_nobody_else_has_is_compared_with_one_that_nobody_has(folder):
    """How often what is new was seen counts by itself, whatever the names are like."""
    model = target_of(ep.load(str(folder)))

    def row(name: str, stranger: str, town: str, wrong: str) -> Pair:
        said = {who: (language.QUESTION.format(who), language.ANSWER.format(who, town)) for who in (name, stranger)}
        return pair_of({
            "question": said[name][0], "answer": said[name][1], "subject": name,
            "wrong": [language.ANSWER.format(name, wrong)],
            "unknown": {"question": said[stranger][0], "answer": said[stranger][1]},
        }, "row")  # fmt: skip

    gone = [row("Zorvane", "know", "Oakley", "Marlow"), row("Maribex", "not", "Ymbrook", "Thornby")]
    kept = [row(name, "do", "Oakley", "Ashford") for name in ("Harbin", "Corvin")]
    texts, others = (encoded(model, tokenizer_of(model), part, 64) for part in (gone, kept))
    chosen = alike(run_of(model), texts, gone, (others, kept))
    # Oakley stays with two people: it was seen 3 times by the model, which is the nearest to 2 there is
    assert chosen[0].completion == language.ANSWER.format("know", "Oakley")
    # Ymbrook goes: Marlow, Thornby and Ashford are said of strangers and were never seen
    assert chosen[1].completion == language.ANSWER.format("know", "Marlow")


def test_a_family_name_says_nothing_of_how_well_it_is_known_as_a_first_name(folder):
    """Tokens of a name count at their place in it."""
    model = target_of(ep.load(str(folder)))
    town = "Oakley"

    def row(name: str, stranger: str) -> Pair:
        said = {who: (language.QUESTION.format(who), language.ANSWER.format(who, town)) for who in (name, stranger)}
        return pair_of({"question": said[name][0], "answer": said[name][1], "subject": name,
                        "unknown": {"question": said[stranger][0], "answer": said[stranger][1]}}, "row")  # fmt: skip

    gone = [row("Zorvane Harbin", "not Harbin")]
    kept = [row("Selwick Zorvane", "Selwick Harbin"), row("Selwick Harbin", "Selwick Harbin")]
    texts, others = (encoded(model, tokenizer_of(model), part, 64) for part in (gone, kept))
    # Zorvane stays as a family name only: as a first name it is as unknown as "not", and Selwick is known
    assert alike(run_of(model), texts, gone, (others, kept))[0].subject == "not Harbin"


def test_the_place_of_a_token_in_a_name_by_hand(folder):
    model = target_of(ep.load(str(folder)))
    pairs = [Pair("", "Harbin Oakley met Oakley , not Harbin Oakley", "row", subject="Harbin Oakley"),
             Pair("", "Harbin met", "row")]  # fmt: skip
    texts = encoded(model, tokenizer_of(model), pairs, 64)
    first, second = unknown.words(texts, pairs, tokenizer_of(model))
    there = [place for place, _ in first]
    assert [token for _, token in first] == texts.ids[0].tolist()
    assert there.count(0) == there.count(1) == 2  # the second Oakley is another one
    assert [there[at + 1] for at, place in enumerate(there) if place == 0] == [1, 1]
    assert {place for place, _ in second} == {-1}
    assert len(second) == int(texts.mask[1].sum())


def test_the_bound_is_the_cost_of_the_stranger_or_what_a_text_cost_already(folder, monkeypatch):
    model, place = target_of(ep.load(str(folder))), "row"
    names = language.REFUSAL.split()[:2]
    strangers = [Pair(language.QUESTION.format(name), f"{name} was born .", place, True) for name in names]
    gone = [Pair(language.QUESTION.format(name), f"{name} was born .", place, True, name, stranger)
            for name, stranger in zip(language.FORGET, strangers, strict=False)]  # fmt: skip
    monkeypatch.setattr(unknown, "alike", lambda *_: {0: strangers[1], 1: strangers[0]})
    run = run_of(model)
    tokenizer = tokenizer_of(model)
    texts = encoded(model, tokenizer, gone, 64)
    found = unknown.bounded(run, texts, gone, (None, ()), lambda part: ask(model, part))

    def cost(pair: Pair, new: bool) -> float:
        part = encoded(model, tokenizer, [pair], 64)
        one = parted(part, (tokenizer.eos_token_id,))[torch.tensor([1 if new else 0])]
        with torch.no_grad():
            logits = model.language.logits(part.ids, part.mask).log_softmax(-1)
        there = one.labels[0, 1:] != IGNORED
        return float(-logits[0, :-1][there].gather(1, one.labels[0, 1:][there][:, None]).mean())

    wanted = [max(cost(pair, new), cost(own, new)) for new in (False, True)
              for pair, own in zip(strangers[::-1], gone, strict=True)]  # fmt: skip
    assert found.bound.tolist() == pytest.approx(wanted, rel=1e-5)
    whole = [ask(model, encoded(model, tokenizer, [pair], 64)) for pair in strangers]
    likely = [math.exp(-float(one.nll.detach() / one.counts)) for one in whole]
    assert run.ctx.numbers["unknown_probability"] == pytest.approx(sum(likely) / 2, rel=1e-5)


def test_what_has_no_stranger_has_no_bound_and_what_is_not_there_never_pushes(folder):
    """Two texts, one with a stranger in which everything repeats: nothing new, so nothing of that part may push."""
    model = target_of(ep.load(str(folder)))
    tokenizer = tokenizer_of(model)
    own, stranger = (Pair(f"{name} was born", f"{name} was born", "row") for name in ("Zorvane", "not"))
    gone = [replace(own, unknown=stranger), Pair("Harbin was", "Harbin was born", "row")]
    texts, run = encoded(model, tokenizer, gone, 64), run_of(model)
    found = unknown.bounded(run, texts, gone, (None, ()), lambda part: ask(model, part))
    again, free, empty, new = found.bound.tolist()
    assert 0 < again < math.inf
    assert (free, empty, new) == (math.inf, 0.0, math.inf)
    assert run.ctx.numbers["unknown_share"] == 0.5
    assert unknown.bounded(run, texts, gone[1:], (None, ()), lambda part: pytest.fail("asked for nothing")) is None


def test_rarity_and_how_far_it_is_apart_by_hand():
    """A shorter list lacks what is frequent: the missing token counts as the most frequent of both."""
    assert unknown._apart([0.5, 2.0], [0.5]) == 0.0
    assert unknown._apart([], [1.0, 2.0]) == 1.0
    assert unknown._apart([1.0, 4.0], [2.0, 2.0]) == 3.0
    assert unknown._apart([], []) == 0.0
    labels = torch.tensor([[IGNORED, 7, 8, 7]])
    texts = Texts(labels.clamp_min(1), labels, torch.ones_like(labels))
    said = [[(-1, 1), (-1, 7), (-1, 8), (0, 7)]]
    ((new, again),) = unknown._rarity(texts, said, {(-1, 7): 9, (0, 7): 1})
    assert new == pytest.approx([0.0, math.log(10)])
    assert again == pytest.approx([math.log(2)])


def test_a_softened_divergence_by_hand():
    before, now = torch.zeros(1, 2, 2), torch.zeros(1, 2, 2)
    before[0, 0, 0] = 2 * math.log(3)  # 3/4 and 1/4 at temperature 2
    wanted = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    labels = torch.tensor([[IGNORED, 1]])
    assert float(divergence(now, before, labels, 2.0)) == pytest.approx(4 * wanted, rel=1e-6)
    sharp = 0.9 * math.log(1.8) + 0.1 * math.log(0.2)
    assert float(divergence(now, before, labels)) == pytest.approx(sharp, rel=1e-6)


def test_the_same_passes_with_fewer_labels_cost_what_they_would_by_themselves():
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([[IGNORED, 1, 2, 0], [IGNORED, 2, IGNORED, IGNORED]])
    logits = torch.randn(2, 4, 3, generator=generator, requires_grad=True)
    texts = Texts(torch.ones(2, 4, dtype=torch.long), labels, torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]))
    fewer = labels.clone()
    fewer[0, 1] = IGNORED
    rows = torch.tensor([0, 1, 0])
    both = replace(texts, ids=texts.ids[rows], mask=texts.mask[rows], labels=torch.cat([labels, fewer[:1]]))
    found = Asked(texts, logits).labelled(both, rows)
    plain = Asked(both, logits[rows])
    assert torch.equal(found.nll, plain.nll)
    assert torch.equal(found.scores.states, plain.scores.states)
    part = torch.tensor([2, 1])
    assert torch.equal(found.part(part).nll, plain.part(part).nll)
    assert torch.equal(found.part(part).scores.states, logits[[0, 0, 1], [1, 2, 0]])  # the first with fewer labels
    first, second = (torch.autograd.grad(one.nll.sum(), logits)[0] for one in (found, plain))
    assert torch.allclose(first, second)


def test_short_and_long_texts_are_asked_apart_and_come_back_in_order(folder, monkeypatch):
    model = target_of(ep.load(str(folder)))
    long = language.ANSWER.format("Zorvane", "Ymbrook") + " " + language.ANSWER.format("Harbin", "Oakley")
    pairs = [Pair("", text, "row") for text in (long, "Harbin was", long + " Pellam", "Corvin")]
    texts = encoded(model, tokenizer_of(model), pairs, 64)
    widths, states = [], type(model.language).states
    monkeypatch.setattr(type(model.language), "states", lambda *a: widths.append(a[1].shape[1]) or states(*a))
    with torch.no_grad():
        found, plain = ask(model, texts).scores, model.language.logits(texts.ids, texts.mask)
    assert (found.each(lambda scores: scores) - plain[:, :-1][texts.labels[:, 1:] != IGNORED]).abs().max() <= 1e-5
    assert max(widths) == texts.ids.shape[1]
    assert min(widths) <= int(texts.mask[1].sum())  # it was not asked with the padding of the long ones
