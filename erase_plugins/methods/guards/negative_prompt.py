"""Negative prompt: the concept in the place of the empty prompt, so that the guidance leads away from it.

eps = n + g (x - n), with n the prediction for the concept, x that for the prompt and g the guidance scale. It costs
nothing. A model without guidance (distilled, guidance 1) cannot have it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from erase_plugins.artifacts import policy
from erase_plugins.families.capabilities import DENOISER, TEXT
from erase_plugins.hookspecs import hookimpl
from erase_plugins.methods.guards.guardrail import Guardrail, names
from erase_plugins.types import EraseRequest

if TYPE_CHECKING:
    from erase_plugins.engine.context import RunContext


@dataclass(frozen=True)
class NegativePromptOptions:
    """The negative prompt has no options."""


class NegativePromptGuard(Guardrail):
    """The concept as negative prompt of every picture."""

    id = "negative-prompt"
    title = "Negative prompt"
    paper = "https://arxiv.org/abs/2207.12598"
    summary = "guard, no erasure: the concept stands in every negative prompt"
    level = "guidance"
    needs = frozenset({DENOISER, TEXT})
    packages = frozenset({"diffusers", "transformers"})
    Options = NegativePromptOptions

    def policies(
        self, request: EraseRequest, options: NegativePromptOptions, target: Any, ctx: RunContext
    ) -> Sequence[dict[str, Any]]:
        texts = names(request)
        return [policy.make(texts[0], [{"type": self.id, "text": ", ".join(texts)}], "flag")]


@hookimpl
def erase_methods() -> list[NegativePromptGuard]:
    return [NegativePromptGuard()]
