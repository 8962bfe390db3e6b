"""Attacks by prompts on the embedded model: the contract of attacks, run as few times as it needs."""

from __future__ import annotations

import pytest

from erase_plugins.testing import measuring
from erase_plugins.testing.measuring import ATTACK, Measured

CHEAP = {
    "paraphrase": ({"kinds": "synonym"}, 24),
    "described": ({}, 28),
    "readable": ({}, 24),
    "ring-a-bell": ({"count": 1, "words": 2, "population": 8, "generations": 2, "pairs": 5}, 8),
    "unlearndiffatk": ({"timesteps": 1, "steps": 2, "words": 2}, 8),
}
#: run a second time where it can show something: the others have no randomness of their own
REPEATS = ("unlearndiffatk",)


@pytest.mark.parametrize("name", CHEAP)
def test_contract(name):
    case = Measured(ATTACK, name, *CHEAP[name])
    for check in (measuring.leaves_the_model_alone, measuring.describes_itself, measuring.report_is_valid,
                  measuring.success_is_controlled, measuring.budget_is_kept,
                  measuring.attachments_are_written):  # fmt: skip
        check(case)
    if name in REPEATS:
        measuring.runs_are_equal(case)
