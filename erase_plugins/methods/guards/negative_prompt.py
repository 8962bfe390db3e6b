"""Negative prompt: the concept in the place of the empty prompt, so that the guidance leads away from it.

eps = n + g (x - n), with n the prediction for the concept, x that for the prompt and g the guidance scale. It costs
nothing. A model without guidance (distilled, guidance 1) cannot have it.
"""

from __future__ import annotations

from dataclasses import dataclass

from erase_plugins.hookspecs import hookimpl
from erase_plugins.methods.guards.guardrail import Steering


@dataclass(frozen=True)
class NegativePromptOptions:
    """The negative prompt has no options."""


class NegativePromptGuard(Steering):
    """The concept as negative prompt of every picture."""

    id = "negative-prompt"
    title = "Negative prompt"
    paper = "https://arxiv.org/abs/2207.12598"
    summary = "guard, no erasure: the concept stands in every negative prompt"
    Options = NegativePromptOptions


@hookimpl
def erase_methods() -> list[NegativePromptGuard]:
    return [NegativePromptGuard()]
