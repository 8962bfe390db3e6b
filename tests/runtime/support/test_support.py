"""Every cell of the table in docs/support.md is what a tiny pipeline does."""

from __future__ import annotations

import pytest

from tests.runtime.support import page
from tests.runtime.support.measure import STEPS, measure
from tests.runtime.support.situations import SITUATIONS

#: rows whose second pipeline is measured in every run: two encoders, their rows and tokens; those of the others with --full
TWICE = ("text-to-image", "ti-before", "text-encoder-map", "map", "context", "gated")
CELLS = [
    pytest.param(name, family, marks=() if name in TWICE or family == situation.families[0] else pytest.mark.full)
    for name, situation in SITUATIONS.items()
    for family in situation.families
]


def test_the_page_lists_these_situations_and_two_words_only() -> None:
    table = page.read()
    assert list(table) == [situation.title for situation in SITUATIONS.values()]
    assert len(table) >= 30
    assert {word for words in table.values() for word in words} == set(page.WORDS)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "family"), CELLS)
def test_cells_are_measured(name: str, family: str) -> None:
    situation = SITUATIONS[name]
    if situation.needs:
        pytest.importorskip(situation.needs)
    found = tuple(measure(situation, family, step) for step in STEPS)
    assert found == page.read()[situation.title], "run: python -m tests.runtime.support --write"
