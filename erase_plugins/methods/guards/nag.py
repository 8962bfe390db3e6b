"""Normalised attention guidance (NAG): cross-attention is led away from what it finds in the concept.

With Z+ and Z- the outputs of a cross-attention layer for the prompt and for the concept, before its last map (Chen et
al., 2025, arXiv 2505.21179): G = scale Z+ - (scale - 1) Z-; where |G|_1 exceeds tau |Z+|_1, a token's G is scaled down
to that; the layer goes on with alpha G + (1 - alpha) Z+. It works at guidance 1, on distilled models too, and costs a
second look of every cross-attention layer.

Differs from the official code: the norm is the paper's L1 (the code for FLUX takes L2); for models with separate
cross-attention only; all steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from erase_plugins.families.capabilities import DENOISER, TEXT
from erase_plugins.families.model import CROSS_ATTENTION
from erase_plugins.hookspecs import hookimpl
from erase_plugins.methods.guards.guardrail import Steering
from erase_plugins.options import as_dict, option
from erase_plugins.types import EraseRequest

if TYPE_CHECKING:
    from erase_plugins.engine.context import RunContext


@dataclass(frozen=True)
class NAGOptions:
    """Options of NAG; the defaults are those of the official code."""

    scale: float = option(5.0, "how far a layer is led away from the concept; 1: not at all", low=1.0, high=100.0)
    tau: float = option(2.5, "how many times larger the result may be", low=0.01, high=100.0)
    alpha: float = option(0.25, "share of the result that the layer goes on with", low=0.0, high=1.0)


class NAG(Steering):
    """Cross-attention away from the concept."""

    id = "nag"
    title = "Normalised attention guidance (NAG)"
    paper = "https://arxiv.org/abs/2505.21179"
    summary = "guard, no erasure: every cross-attention layer is led away from the concept; at guidance 1 too"
    needs = frozenset({DENOISER, TEXT, CROSS_ATTENTION})
    Options = NAGOptions

    def stage(
        self, texts: list[str], request: EraseRequest, options: NAGOptions, target: Any, ctx: RunContext
    ) -> dict[str, Any]:
        return {"text": ", ".join(texts), **as_dict(options)}


@hookimpl
def erase_methods() -> list[NAG]:
    return [NAG()]
