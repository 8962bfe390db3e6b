"""Safe latent diffusion (SLD): the guidance is pushed away from the concept where the picture moves towards it.

With u, x, s the predictions for the empty prompt, the prompt and the concept, element by element (Schramowski et al.,
CVPR 2023): d = x - s; mu = min(1, scale |d|), 0 where d >= threshold; gamma = mu (s - u) + momentum nu;
nu <- decay nu + (1 - decay) gamma; eps = u + g (x - u - gamma) from step ``warmup`` on. It costs half as many passes
again. The thresholds were chosen for predictions of noise. ``level`` gives the settings of the paper.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from erase_plugins.hookspecs import hookimpl
from erase_plugins.methods.guards.guardrail import Steering
from erase_plugins.options import option
from erase_plugins.types import EraseRequest

if TYPE_CHECKING:
    from erase_plugins.engine.context import RunContext


_NAMES = ("warmup", "scale", "threshold", "momentum", "decay")
#: warm-up in steps, scale s_S, threshold lambda, momentum scale s_m and decay beta_m of a level
LEVELS: dict[str, tuple[float, ...]] = {
    "weak": (15, 20.0, 0.0, 0.0, 0.0),
    "medium": (10, 1000.0, 0.01, 0.3, 0.4),
    "strong": (7, 2000.0, 0.025, 0.5, 0.7),
    "max": (0, 5000.0, 1.0, 0.5, 0.7),
}


@dataclass(frozen=True)
class SLDOptions:
    """Options of SLD; what is given replaces that of the level."""

    level: str = option("medium", "settings of the paper", choices=("weak", "medium", "strong", "max"))
    warmup: int | None = option(None, "steps before it acts; none: of the level", low=0, high=10_000)
    scale: float | None = option(None, "how fast elements are steered in full; none: of the level", low=0.0, high=1e6)
    threshold: float | None = option(None, "elements further beyond the concept are left; none: of the level",
                                     low=-1e6, high=1e6)  # fmt: skip
    momentum: float | None = option(None, "weight of the momentum; none: of the level", low=0.0, high=1.0)
    decay: float | None = option(None, "how long the momentum lasts; none: of the level", low=0.0, high=0.999)


class SLD(Steering):
    """Guidance away from the concept."""

    id = "sld"
    title = "Safe latent diffusion (SLD)"
    paper = "https://arxiv.org/abs/2211.05105"
    summary = "guard, no erasure: guidance away from the concept, element by element, with momentum"
    Options = SLDOptions

    def stage(
        self, texts: list[str], request: EraseRequest, options: SLDOptions, target: Any, ctx: RunContext
    ) -> dict[str, Any]:
        settings = dict(zip(_NAMES, LEVELS[options.level], strict=True))
        settings |= {name: value for name in _NAMES if (value := getattr(options, name)) is not None}
        if target.info.facts().get("prediction") not in (None, "epsilon"):
            ctx.warn("the thresholds of SLD were chosen for predictions of noise, and this model predicts velocity")
        return {"text": ", ".join(texts), **settings}


@hookimpl
def erase_methods() -> list[SLD]:
    return [SLD()]
