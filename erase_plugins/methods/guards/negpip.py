"""Negative prompt in the prompt (NegPip): the concept's tokens are added with values of the other sign.

A cross-attention layer attends to both, by the keys of both; the values of the concept's tokens are multiplied by
-weight. The rows of the empty prompt are left as they are. It works at guidance 1 and costs nothing worth naming. From
the community (the extension sd-webui-negpip, and ComfyUI-ppm): there is no paper; the attention is Stable Diffusion's.

Differs from the extension: the weight multiplies the values only, not the keys; for models with separate
cross-attention only.
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
class NegPipOptions:
    """Options of NegPip."""

    weight: float = option(1.0, "how many times the concept's values count, negatively", low=0.0, high=100.0)


class NegPip(Steering):
    """The concept in every prompt, negatively."""

    id = "negpip"
    title = "Negative prompt in the prompt (NegPip)"
    paper = "https://github.com/hako-mikan/sd-webui-negpip"
    summary = "guard, no erasure: the concept stands in every prompt with values of the other sign; at guidance 1 too"
    needs = frozenset({DENOISER, TEXT, CROSS_ATTENTION})
    Options = NegPipOptions

    def stage(
        self, texts: list[str], request: EraseRequest, options: NegPipOptions, target: Any, ctx: RunContext
    ) -> dict[str, Any]:
        return {"text": ", ".join(texts), **as_dict(options)}


@hookimpl
def erase_methods() -> list[NegPip]:
    return [NegPip()]
