"""Receler as published: a fresh student rollout for every state, and as many attack passes as the options ask for.

Per state: a rollout that stops at a random step, half way on average, with both halves of guidance; the frozen model
without a prompt and with the concept, whose pass also gives the mask; then one pass an attack step, the last of which
trains the erasers. What this package holds in place besides is no part of the paper and is left out on both sides.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: options with which our own engine follows the plain procedure
OPTIONS = {"rollout": "student"}

#: options of both sides of the comparison: the paper holds no words in place
COMPARED = {"keep_words": 0}


def forwards(options: Mapping[str, Any]) -> dict[str, int]:
    """Passes in samples for the options of a Receler plan."""
    states = options["iterations"] * options["batch"]
    return {"preparation": 0, "training": states * (options["steps"] - 1 + 2 + _inner(options))}


def ours(options: Mapping[str, Any]) -> dict[str, int]:
    """Passes of this package for the same options: trajectories harvested once, one more pass a state for its mask."""
    kept = min(options["harvest"], options["steps"])
    masks = kept if options["locality"] > 0 else 0
    return {
        "preparation": options["trajectories"] * (2 * options["steps"] + masks),
        "training": options["iterations"] * options["batch"] * _inner(options),
    }


def _inner(options: Mapping[str, Any]) -> int:
    """Student passes a state; the erasers train on the last attack pass."""
    return int(options["adversarial_steps"]) if options["adversarial"] == "learned" else 1
