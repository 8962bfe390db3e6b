"""What a closed form is said to cost grows with what it encodes."""

from __future__ import annotations

import pytest

from erase_plugins.api import build_request, plan
from erase_plugins.workflow.models import find_model, target_of
from erase_plugins.workflow.run import make_plan


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


@pytest.mark.parametrize(
    ("concepts", "kind", "told"), [(1, "style", False), (2, "object", False), (40, "object", True)]
)
def test_a_map_is_said_to_be_full_by_directions_not_by_rows(concepts, kind, told):
    """A style in 130 phrasings gives 2,080 rows; its change has fewer than 100 directions."""
    names = [f"thing {number}" for number in range(concepts)]
    request = build_request("pocket", "uce", names, kind=kind)
    warnings = make_plan(request, find_model("pocket").info).warnings
    assert any("directions of text rows, and one linear map has 256" in text for text in warnings) is told
