"""TRCE as published: both halves of guidance for every trajectory, nothing stored, every teacher asked at every update.

Preparation draws whole trajectories: for the concept with two passes a sampler step, and 2000 of the empty prompt, for
which guidance asks the same thing twice. An update asks the frozen model for the safe, the unsafe and the empty prompt
and the stage-1 model for every regulariser state; the student answers the unsafe and the empty prompt and every
regulariser state.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: trajectories of the empty prompt that the official script draws
FREE = 2000
#: options with which our own engine draws as many; it still asks each of them once, and keeps what teachers answered
OPTIONS = {"free": FREE}

#: options of both sides of the comparison: the paper holds no words in place
COMPARED = {"keep_words": 0}


def forwards(options: Mapping[str, Any], free: int = FREE) -> dict[str, int]:
    """Passes in samples.

    Args:
        options: of a TRCE plan.
        free: trajectories without a prompt; give ``options["free"]`` to leave the smaller pool out of the comparison.
    """
    states = options["iterations"] * options["batch"]
    regulariser = options["iterations"] * options["free_batch"]
    return {
        "preparation": 2 * options["steps"] * (options["trajectories"] + free),
        "training": 5 * states + 2 * regulariser,
    }


def ours(options: Mapping[str, Any]) -> dict[str, int]:
    """Passes of this package for the same options, words held in place left out."""
    early = max(round(options["early"] * options["steps"]), 1)
    kept = min(options["harvest"], early)
    return {
        "preparation": options["trajectories"] * (2 * early + kept) + options["free"] * options["steps"],
        "training": options["iterations"]
        * ((1 + (options["steer_null"] > 0)) * options["batch"] + options["free_batch"]),
    }
