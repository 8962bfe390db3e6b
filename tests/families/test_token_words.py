"""Words and pieces of words that are one token."""

from __future__ import annotations

from erase_plugins.families.token_words import token_words
from tests.training.test_peers import Tokenizer


def test_words_of_three_letters_are_whole_and_their_parts_are_pieces():
    words, pieces = token_words(Tokenizer(("<s>", "ĠSam", "ĠAl", "son", "Ġa1b", "ĠPellam")))
    assert words == {1: "Sam", 5: "Pellam"}
    assert pieces == [3]
