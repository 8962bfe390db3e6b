"""How the benchmark on a real language model compares answers."""

from __future__ import annotations

import pytest

from benchmarks.smollm2 import plain


@pytest.mark.parametrize(("first", "second"), [
    ("The answer is: Mexico City.", "The answer is: Mexico City"),
    ("the capital of Peru is Lima", "Capital of Peru is  Lima!"),
])  # fmt: skip
def test_answers_are_the_same_but_for_case_articles_and_punctuation(first, second):
    assert plain(first) == plain(second)


def test_other_words_are_another_answer():
    assert plain("The answer is: Baghdad") != plain("The answer is:")
    assert plain("a man an plan the canal") == ["man", "plan", "canal"]
    assert plain("theory and anthem") == ["theory", "and", "anthem"]
