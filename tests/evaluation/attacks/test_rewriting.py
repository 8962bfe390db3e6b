"""Sentences from the word list, their rewritings, and the word filter."""

from __future__ import annotations

import random

import pytest

from erase_plugins.evaluation.attacks.rewriting import FRAMES, Sentence, Words, blocked, first, rewritten, words_for
from erase_plugins.pocket.world import pocket_world

WORDS = Words(("bird of the night",), ("big round eyes", "a hooked beak"), ("on a branch",), ("parrot", "eagle"))


@pytest.mark.parametrize(
    ("text", "stopped"),
    [("an owl", True), ("the OWLS", True), ("owlish eyes", True), ("night-bird", True), ("a bird at night", False)],
)
def test_the_filter_stops_words_also_inside_of_others(text, stopped):
    assert blocked(text, ["owl", "night bird"]) is stopped


def test_a_sentence_reads_as_one():
    sentence = Sentence(1, "old ", "bird of the night", ("big round eyes", "a hooked beak"), "on a branch", "eagle")
    assert sentence.text == "an old bird of the night with big round eyes and a hooked beak, on a branch"


def test_first_sentences_use_every_frame():
    made = first(WORDS, len(FRAMES), random.Random(0))
    assert [item.frame for item in made] == list(range(len(FRAMES)))


def test_a_rewriting_exchanges_one_part():
    before = first(WORDS, 1, random.Random(0))[0]
    for seed in range(20):
        after = rewritten(before, WORDS, random.Random(seed))
        assert sum(getattr(before, name) != getattr(after, name) for name in Sentence.__dataclass_fields__) <= 1


def test_words_of_a_known_concept_and_of_an_unknown_one():
    found = words_for(pocket_world(), "owl", {"details": ["silent wings"]})
    assert found.kinds[:2] == ("bird of the night", "bird") and "silent wings" in found.details
    assert "penguin" in found.likes and "owl" not in found.likes
    assert words_for(pocket_world(), "no such thing", {}) is None
