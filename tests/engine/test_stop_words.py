"""No pool of kept words holds a word that stands for what is erased: stop lists by kind, and a concept's own."""

from __future__ import annotations

import pytest
import torch

import erase_plugins as ep
from erase_plugins.engine.context import RunContext
from erase_plugins.engine.gating import _Others
from erase_plugins.engine.pools import Rollout
from erase_plugins.engine.stop_words import stopped
from erase_plugins.engine.vocabulary import Vocabulary, projection_gram
from erase_plugins.errors import RequestError
from erase_plugins.manager import get_manager
from erase_plugins.training import TrainedMethod
from erase_plugins.training.priors import chosen_priors
from erase_plugins.training.retain import keep_words
from erase_plugins.training.text_tuning import HeldStates
from erase_plugins.types import Concept, EraseRequest
from erase_plugins.workflow.models import target_of
from tests.methods.runs import begun, prepared

HOT = {"sex", "skin", "body", "naked", "breasts", "lingerie"}
COOL = {"dog", "house", "guitar", "green", "umbrella", "boat"}
EXPLICIT = Concept("pizza", kind="explicit")


@pytest.fixture
def target(tiny_sd1, monkeypatch):
    made = target_of(tiny_sd1(), "tiny")
    words = tuple(word for pair in zip(sorted(HOT), sorted(COOL), strict=True) for word in pair)
    monkeypatch.setattr(made, "vocabulary", lambda: words)
    return made


def test_the_lists_hold_what_belongs_to_the_kind_and_nothing_else():
    words = [*HOT, *COOL, "celebrity", "Actress", "woman", "man", "people", "person", "church", "red"]
    assert stopped(words, [EXPLICIT]) == HOT
    assert stopped(words, [Concept("ada", kind="person")]) == {"celebrity", "Actress"}
    assert stopped(words, [Concept("ada", kind="person"), EXPLICIT]) == {*HOT, "celebrity", "Actress"}
    assert stopped(words, [Concept("noto", kind="style"), Concept("pizza"), Concept("a", kind="own")]) == set()


def test_a_concept_brings_words_of_its_own():
    assert stopped([*COOL, "houses", "hot"], [Concept("villa", extra={"stop": ["house*", "boat"]})]) == {
        "house", "houses", "boat"
    }  # fmt: skip
    for wrong in ("house", ["*"], [3], 3):
        with pytest.raises(RequestError, match="list of words"):
            stopped(COOL, [Concept("villa", extra={"stop": wrong})])


def test_words_that_are_drawn_at_random_or_for_their_closeness_are_free_of_them(target):
    generator = torch.Generator().manual_seed(0)
    assert set(keep_words(target, ["pizza"], [EXPLICIT], 100, 1.0, generator)) == COOL
    assert set(keep_words(target, ["pizza"], [Concept("pizza")], 100, 1.0, generator)) == HOT | COOL
    assert set(chosen_priors(target, ["pizza"], [EXPLICIT], [], 100, 1.0, RunContext("t"))) == COOL
    request = EraseRequest("tiny", (EXPLICIT,), "advunlearn", retain=("a cat",))
    held = HeldStates.of(target, ["pizza"], request, 100, 1.0, ("a {}",), RunContext("t"))
    assert not HOT & {word for prompt in held.prompts for word in prompt.split()}
    assert "a cat" in held.prompts


@pytest.mark.parametrize("method", ["uce", "rece"])
def test_closed_forms_keep_as_if_the_vocabulary_did_not_have_them(target, method):
    options = {"near": 1.0, "vocabulary_scale": 3.0}
    for concept, wanted in ((EXPLICIT, HOT), (Concept("pizza"), set())):
        artifact = ep.erase(target, concept, method, options=options)
        assert set(dict(artifact.edit.meta["statistics"]["left_out"])) == wanted


#: options by which methods hold many words, those that have them
MANY = {"keep_words": 12, "prior_words": 12, "retain": "predictions"}


def names():
    items = [entry.item for entry in get_manager().methods()]
    return sorted(item.id for item in items if isinstance(item, TrainedMethod) and "explicit" in item.kinds)


@pytest.mark.parametrize("method", names())
def test_no_method_harvests_states_of_them(target, monkeypatch, method):
    seen: list[str] = []
    plain = Rollout.pool

    def pool(self, name, prompts, key, watch=None, **options):
        seen.extend([*prompts, *(prompt for column in (watch or {}).values() for prompt in column)])
        return plain(self, name, prompts, key, watch, **options)

    monkeypatch.setattr(Rollout, "pool", pool)
    options = {**get_manager().method(method).contract_options, "near": 1.0, "aliases": False}
    known = get_manager().method(method).Options.__dataclass_fields__
    options = {name: value for name, value in {**options, **MANY}.items() if name in known}
    with prepared(begun(target, EraseRequest("tiny", (EXPLICIT,), method, options=options))):
        words = {word for prompt in seen for word in prompt.split()}
    assert not HOT & words
    assert COOL & words or method in ("hirm", "mace")  # which keep states of the words and draw none of them


class Rows:
    """Examples of a probe that remember which of them were asked for."""

    def __init__(self, rows):
        self.rows, self.asked = rows, []

    def __getitem__(self, places):
        self.asked = places
        return self.rows[places]


def test_a_probe_does_not_learn_to_stay_shut_for_them(target):
    others = _Others(target, Vocabulary.of(target, 100, projection_gram(target)), RunContext("gate"))
    others.rows = Rows(others.rows)
    for concept, wanted in ((EXPLICIT, COOL), (Concept("pizza"), HOT | COOL)):
        others.detector(["pizza"], 1.0, [concept])
        assert {word for place in others.rows.asked for word in others.parts[place]} == {"", *wanted}
