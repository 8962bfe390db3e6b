"""Attacks by prompts on the embedded model: the contract of attacks, run as few times as it needs."""

from __future__ import annotations

import pytest

from erase_plugins.testing import measuring
from erase_plugins.testing.measuring import ATTACK, Measured

CHEAP = {
    "paraphrase": ({"kinds": "synonym"}, 19),
    "described": ({}, 19),
    "ring-a-bell": ({"count": 1, "words": 2, "population": 8, "generations": 2, "pairs": 5}, 8),
    "unlearndiffatk": ({"timesteps": 1, "steps": 2, "words": 2}, 8),
}
#: further runs where they can show something: the others share the code that writes, or have no randomness of their own
WRITES, REPEATS = ("paraphrase", "ring-a-bell"), ("unlearndiffatk",)


class Once(Measured):
    """Remembers its first run; a run with files or as a repetition is made anew."""

    first = None

    def run(self, out=None, **more):
        if out is not None or more:
            return super().run(out, **more)
        self.first = self.first or super().run()
        return self.first


@pytest.mark.parametrize("name", CHEAP)
def test_contract(name):
    case = Once(ATTACK, name, *CHEAP[name])
    measuring.leaves_the_model_alone(case)  # before all others: the first run
    for check in (measuring.describes_itself, measuring.report_is_valid, measuring.success_is_controlled,
                  measuring.budget_is_kept):  # fmt: skip
        check(case)
    if name in WRITES:
        measuring.attachments_are_written(case)
    if name in REPEATS:
        assert measuring._rows(Measured.run(case)) == measuring._rows(case.first)
