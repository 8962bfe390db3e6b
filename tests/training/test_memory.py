"""Memory of every method at full shapes, counted with fake tensors, against the cards that people have."""

from __future__ import annotations

import pytest

from benchmarks.memory import METHODS, of_method

#: (family, type of the weights, bytes of the card)
CARDS = {"sd1": ("float32", 12e9), "sdxl": ("bfloat16", 24e9)}
#: looked at in every run of the tests; the others with --full
FEW = {("sd1", "realera"), ("sdxl", "receler")}


@pytest.mark.parametrize(
    ("family", "method"),
    [
        pytest.param(family, method, marks=() if (family, method) in FEW else pytest.mark.full)
        for family in CARDS
        for method in METHODS
    ],
)
def test_a_step_fits_the_card_and_the_plan_says_how_much_it_takes(family, method):
    dtype, card = CARDS[family]
    row = of_method(method, family, dtype)
    assert row["whole GiB"] * 2**30 < card
    assert row["plan GiB"] == pytest.approx(row["whole GiB"], rel=0.15)
