"""Looks at an attack that learns: has the concept come back already?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from erase_plugins.engine.context import RunContext
from erase_plugins.engine.stopping import Stop

#: looks at a training attack, at equal distances
LOOKS = 4
#: an attack ends early when two looks in a row show the concept this often
ENOUGH = 0.9


@dataclass(frozen=True)
class Looks(Stop):
    """Looks at a training attack now and then, and ends it when the concept is back twice in a row.

    Attributes:
        look: share of pictures that show the concept now.
    """

    look: Callable[[], float] = lambda: 0.0

    @classmethod
    def within(cls, steps: int, pictures: int, look: Callable[[], float], count: int = LOOKS) -> Looks:
        """``count`` of them at equal distances; the last falls on the end, where the attack is measured anyway."""
        return cls(ENOUGH, max(steps // count, 1), pictures, look)

    def without_end(self) -> Looks:
        """The same looks, which end nothing."""
        return replace(self, at=2.0)

    def reached(self, ctx: RunContext, done: int, edit_of: Callable[[], Any]) -> bool:
        if done == 0 or done % self.every:
            return False
        ctx.numbers[f"look {done}"] = self.look()
        last = [ctx.numbers.get(f"look {step}", 0.0) for step in (done, done - self.every)]
        return min(last) >= self.at


def looks_of(ctx: RunContext) -> dict[int, float]:
    """Steps done -> share of pictures that showed the concept, of all looks of a run."""
    found = {int(name.split()[1]): value for name, value in ctx.numbers.items() if name.startswith("look ")}
    return dict(sorted(found.items()))
