"""SAFREE (Yoon et al., ICLR 2025, arXiv 2410.12761), its part on prompt embeddings.

Tokens of a prompt whose masking moves it away from the concept get rows without the concept's span, in the first steps
of a picture, the more the more they change (`erase_plugins.runtime.guardrails.safree` has the equations).

Differs from the official code: no part on latents (Fourier components of skip features), and the concept is no
negative prompt beside it (add ``negative-prompt``); pads and end token keep the prompt in both. A prompt of one token
is left as it is. For models with one text encoder.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from erase_plugins.errors import Unsupported
from erase_plugins.families.capabilities import TEXT
from erase_plugins.hookspecs import hookimpl
from erase_plugins.methods.guards.guardrail import Steering
from erase_plugins.options import option
from erase_plugins.types import EraseRequest

if TYPE_CHECKING:
    from erase_plugins.engine.context import RunContext
    from erase_plugins.families.base import ModelSpec


@dataclass(frozen=True)
class SafreeOptions:
    """Options of SAFREE."""

    alpha: float = option(0.01, "how far above the others' mean distance a token has to be", low=0.0, high=1e6)


class SafreeGuard(Steering):
    """Prompt rows without the concept."""

    id = "safree"
    title = "SAFREE (prompt embeddings)"
    paper = "https://arxiv.org/abs/2410.12761"
    summary = "guard, no erasure: prompt tokens that lead to the concept lose it in the first steps of a picture"
    Options = SafreeOptions

    def prepared(self, request: EraseRequest, options: SafreeOptions, info: ModelSpec) -> EraseRequest:
        """The request, for a model with one text encoder."""
        if (found := tuple(info.components(TEXT))) != ("text_encoder",):
            raise Unsupported(f"safree knows models with one text encoder; {info.model} has {len(found)}")
        return request

    def stage(
        self, texts: list[str], request: EraseRequest, options: SafreeOptions, target: Any, ctx: RunContext
    ) -> dict[str, Any]:
        curve = "style" if all(item.kind == "style" for item in request.forget) else "concept"
        return {"phrases": texts, "alpha": float(options.alpha), "curve": curve}


@hookimpl
def erase_methods() -> list[SafreeGuard]:
    return [SafreeGuard()]
