"""AdvUnlearn as published: every state of every step, the attack's included, is drawn anew, and nothing is stored.

A state costs a rollout that stops at a random step, half way on average, with both halves of guidance. An attack step
asks the frozen and the trained model once each for it. An outer step draws states of the concept and one of every
retained prompt; the frozen model answers the concept, the empty prompt and the retained prompts, the trained one the
concept and the retained prompts. On toy-sized models this package compares text states of retained prompts instead,
which costs no passes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: retained prompts a step in the official script
RETAINED = 5
#: options with which our own engine follows the plain procedure
OPTIONS = {"rollout": "fresh", "retain": "predictions", "keep_batch": RETAINED}


def forwards(options: Mapping[str, Any], retained: int = RETAINED) -> dict[str, int]:
    """Passes in samples.

    Args:
        options: of an AdvUnlearn plan.
        retained: prompts a step; 0 leaves them out of the comparison.
    """
    draw = options["steps"] - 1
    outer = options["batch"] * (draw + 3) + retained * (draw + 2)
    return {"preparation": 0, "training": options["iterations"] * outer + _attacks(options) * (draw + 2)}


def ours(options: Mapping[str, Any]) -> dict[str, int]:
    """Passes of this package for the same options."""
    retained = options["keep_batch"] if options["retain"] == "predictions" and options["keep_weight"] > 0 else 0
    rolled = options["trajectories"] + (options["keep_words"] + 1 if retained else 0)
    return {
        "preparation": rolled * 2 * options["steps"],
        "training": options["iterations"] * (options["batch"] + retained) + _attacks(options),
    }


def _attacks(options: Mapping[str, Any]) -> int:
    """States that all attack steps ask for."""
    steps = {"multi": options["attack_steps"], "fast": 1, "off": 0}[options["attack"]]
    return int(max(options["iterations"] - options["warmup"], 0) * options["attack_batch"] * steps)
