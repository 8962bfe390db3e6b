"""Words that are held in place: random, reproducible, never the concept or its near synonyms."""

from __future__ import annotations

import torch

from erase_plugins.training.retain import keep_words
from erase_plugins.types import Concept


def words(target, phrases, count=40, near=0.85, seed=0):
    return keep_words(target, phrases, [Concept("it")], count, near, torch.Generator().manual_seed(seed))


def test_words_are_drawn_from_the_vocabulary_without_the_concept(pocket_target):
    found = words(pocket_target, ["pizza", "hot dog"])
    assert len(set(found)) == 40
    assert set(found) <= set(pocket_target.vocabulary())
    assert words(pocket_target, ["pizza", "hot dog"]) == found
    assert words(pocket_target, ["pizza", "hot dog"], seed=1) != found
    everything = words(pocket_target, ["pizza", "hot dog"], count=10_000)
    assert not {"pizza", "hot", "dog"} & set(everything)


def test_closer_words_are_left_out(pocket_target):
    strict, loose = (set(words(pocket_target, ["gun"], 10_000, near)) for near in (0.3, 1.0))
    assert strict < loose
    assert "pistol" in loose - set(words(pocket_target, ["gun"], 10_000, 0.85))


def test_none_are_drawn_when_none_are_wanted(pocket_target):
    assert words(pocket_target, ["pizza"], 0) == ()
