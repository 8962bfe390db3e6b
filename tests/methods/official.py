"""What tests of official steps share: settings of a short run, what it reports, the denoiser as stock code asks it."""

from __future__ import annotations

from typing import Any

import erase_plugins as ep
from erase_plugins.training import TrainingRun
from erase_plugins.types import Concept, EraseRequest
from tests.methods.runs import begun

STEPS = 3
FAST: dict[str, Any] = {
    "iterations": STEPS, "trajectories": 1, "harvest": 4, "steps": 5, "keep_words": 0, "precision": "float32", "batch": 1,
    "templates": "{}", "cooldown": 0.0,
}  # fmt: skip


def losses_of(target: Any, method: str, options: Any, concept: Concept | str = "pizza", **given: Any) -> list[float]:
    """What a run of the method reports, step by step."""
    seen: list[float] = []
    listen = [lambda event: seen.append(event.numbers["loss"]) if "loss" in event.numbers else None]
    ep.erase(target, concept, method, options=options, listeners=listen, **given)
    return seen[-STEPS:]


def begin(target: Any, method: str, options: Any, concept: Concept | None = None) -> TrainingRun:
    """The same run before any work."""
    return begun(target, EraseRequest("shaped", (concept or Concept("pizza"),), method, options=options))


def ask(unet: Any, states: Any, rows: Any) -> Any:
    """The denoiser's prediction at given states for rows of text (1 or as many as states, tokens, width)."""
    return unet(states.inputs, states.timestep, encoder_hidden_states=rows, return_dict=False)[0]


def stepped(optimizer: Any, loss_of: Any, steps: Any) -> list[float]:
    """Losses of the steps in turn, each taken before its step of the optimizer."""
    losses = []
    for step in steps:
        total = loss_of(step)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        losses.append(float(total.detach()))
    return losses
