"""RealEra as its public re-implementation runs it: a student rollout for every step, every prompt asked by itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def forwards(options: Mapping[str, Any]) -> dict[str, int]:
    """Passes in samples for the options of a RealEra plan; the mean rollout stops half way."""
    states = options["iterations"] * options["batch"]
    rollout = options["steps"] - 1  # two halves of guidance, half of the steps
    teacher, student = 3 + options["outside"], 1 + options["neighbours"] + options["outside"]
    return {"preparation": 0, "training": states * (rollout + teacher + student)}


def ours(options: Mapping[str, Any]) -> dict[str, int]:
    """Passes of this package for the same options, words held in place left out."""
    states = options["iterations"] * options["batch"]
    kept = min(options["harvest"], options["steps"])
    return {
        "preparation": options["trajectories"] * (2 * options["steps"] + kept),
        "training": states * (1 + options["neighbours"] + 2 * options["outside"]),
    }
