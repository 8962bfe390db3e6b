"""Texts stop to push once they are as unlikely as the same about somebody unknown, and training ends there."""

from __future__ import annotations

import pytest
import torch

import erase_plugins as ep
from erase_plugins.data import DataRef
from erase_plugins.families.texts import IGNORED, Pair, Texts, encoded, tokenizer_of
from erase_plugins.training import Asked
from erase_plugins.training.language import ask
from erase_plugins.training.unknown import Bounds, alike, parted
from erase_plugins.types import ForgetItem
from erase_plugins.workflow.models import target_of
from tests import language

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
    found = parted(Texts(ids, labels, (ids > 0).long())).labels
    _ = IGNORED
    assert found.tolist() == [
        *labels.tolist(), [_, _, _, _, _, 5, 2, _], [_, 6, _, 4, 2, _, _, _],
    ]  # fmt: skip


def test_what_is_beyond_its_bound_is_pulled_back_by_hand():
    labels = torch.tensor([[IGNORED, 1, 1], [IGNORED, 1, IGNORED], [IGNORED, 1, IGNORED]])
    texts = Texts(torch.ones(3, 3, dtype=torch.long), labels, torch.ones(3, 3), bound=torch.tensor([0.5, 9.0, 0.0]))
    logits = torch.zeros(3, 3, 2)  # every token costs ln 2
    asked = Asked(texts, logits)
    ln2 = 0.6931471805599453
    assert float(asked.beyond) == pytest.approx((2 * (ln2 - 0.5) + 0.0 + ln2) / 4, rel=1e-6)


def test_the_stranger_is_as_new_to_the_model_as_the_person_would_have_been(folder):
    """A name that only the forgotten texts tell of is compared with one that no text tells of."""
    model, place = target_of(ep.load(str(folder))), "row"

    def pair(name: str, stranger: str = "") -> Pair:
        unknown = Pair(language.QUESTION.format(stranger), f"{stranger} was born .", place, True) if stranger else None
        return Pair(language.QUESTION.format(name), f"{name} was born .", place, True, name, unknown)

    gone = [pair("Zorvane", "Selwick"), pair("Harbin", "know")]
    kept = [pair("Harbin", "not"), pair("Selwick"), pair("Selwick"), pair("Pellam")]

    class Run:
        target, options = model, type("Options", (), {"max_tokens": 64})

    texts, others = (encoded(model, tokenizer_of(model), part, 64) for part in (gone, kept))
    chosen = alike(Run(), texts, gone, (others, kept))
    # Zorvane: 0 times in what stays, like "know" and "not"; Harbin: 2 times there (once asked, once answered), where
    # Selwick was seen 4 times and the others never
    assert chosen[0].prompt == language.QUESTION.format("know")
    assert chosen[1].prompt == language.QUESTION.format("Selwick")
    assert alike(Run(), texts, gone, (None, ()))[0] is gone[0].unknown


def test_short_and_long_texts_are_asked_apart_and_come_back_in_order(folder):
    model = target_of(ep.load(str(folder)))
    long = language.ANSWER.format("Zorvane", "Ymbrook") + " " + language.ANSWER.format("Harbin", "Oakley")
    pairs = [Pair("", text, "row") for text in (long, "Harbin was", long + " Pellam", "Corvin")]
    texts = encoded(model, tokenizer_of(model), pairs, 64)
    with torch.no_grad():
        found, plain = ask(model, texts).logits, model.language.logits(texts.ids, texts.mask)
    there = texts.mask.bool()
    assert (found[there] - plain[there]).abs().max() <= 1e-5
    assert not found[1, int(texts.mask[1].sum()) :].any()  # it was not asked with the padding of the long ones
