"""What a closed form is said to cost grows with what it encodes."""

from __future__ import annotations

import pytest

from erase_plugins.api import plan
from erase_plugins.workflow.models import target_of


@pytest.fixture
def target(tiny_sd1):
    return target_of(tiny_sd1(), "tiny")


@pytest.mark.parametrize(
    ("less", "more"),
    [
        ({"vocabulary": 100}, {"vocabulary": 20_000}),
        ({"vocabulary": 20_000, "vocabulary_tail": 3}, {"vocabulary": 20_000, "vocabulary_tail": 6}),
        ({"vocabulary": 20_000, "vocabulary_tail": 6}, {"vocabulary": 20_000, "vocabulary_tail": 0}),
    ],
)
def test_words_and_their_rows_cost(target, less, more):
    small, large = (plan(target, "pizza", "uce", options=options) for options in (less, more))
    assert small.seconds < large.seconds
    assert small.memory_bytes < large.memory_bytes
