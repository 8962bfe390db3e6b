"""Early stop by a judge: training ends once the concept is seen in few enough of some drawn pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from erase_plugins.engine.context import RunContext


@dataclass(frozen=True)
class Stop:
    """When training ends early.

    Attributes:
        at: share of pictures in which the judge may still see the concept, in 0..1.
        every: training steps between looks.
        pictures: drawn for a look.
    """

    at: float
    every: int
    pictures: int

    def reached(self, ctx: RunContext, done: int, edit_of: Callable[[], Any]) -> bool:
        """Whether training ends after ``done`` steps; depends on nothing but the trained values.

        Args:
            ctx: asks the judge (``ctx.target_rate``); without one training goes on.
            done: finished steps.
            edit_of: makes the edit that would be saved now.
        """
        if done == 0 or done % self.every or ctx.target_rate is None:
            return False
        rate = ctx.target_rate(edit_of(), self.pictures)
        ctx.count("checks")
        if rate > self.at:
            return False
        ctx.numbers["stopped_after"] = done
        ctx.note(f"stopped after {done} steps: the judge sees the concept in {100 * rate:.0f} % of its pictures")
        return True
