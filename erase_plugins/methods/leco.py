"""LECO and concept sliders: the erasing LoRA that the community shares (p1atdev/LECO; Gandikota et al., ECCV 2024,
arXiv 2311.12092).

Four prompts per entry: target tau (trained), positive pi, unconditional u, neutral nu.

    erase:    y = eps*(nu) - eta (eps*(pi) - eps*(u)),    enhance: plus sign,    L = mean (eps(tau) - y)^2

With pi = tau and u = nu = '' this is ESD with eta_p = eta. A slider has tau = nu = "person", pi = "person, very old",
u = "person, very young", action=enhance, eta=4. A negative strength turns the effect round.

Differs from the official code:
    - states come from harvested teacher trajectories under guidance from '' to tau, not from rollouts with the LoRA on;
      only the conditional half is computed and eps*(u) is not asked for where u = nu;
    - ``layers=xattn`` and ``layers=selfattn`` select attention modules; in LECO they select nothing, and its
      ``noxattn`` equals full;
    - no guidance rescaling on SDXL (LECO computes it and returns the unscaled prediction); every pass has its pooled
      prompts;
    - alpha is baked into the up factors; files have Kohya and diffusers names for every family;
    - "down" starts as in LECO (uniform within 1/sqrt(in)); ``start=width`` has the larger variance 1/in of the sliders,
      Gaussian instead of uniform, and is the preset of toy-sized models;
    - what must stay can be held (on for toy-sized models and with --keep).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from erase_plugins.engine.erasing import ErasePrompts, check_becomes
from erase_plugins.engine.optimizers import OPTIMIZERS
from erase_plugins.errors import RequestError
from erase_plugins.hints import Hint, Sentence
from erase_plugins.hookspecs import hookimpl
from erase_plugins.options import option
from erase_plugins.training import Cost, RolloutOptions, TrainedMethod, TrainingRun
from erase_plugins.training.options import StartOptions, check_templates
from erase_plugins.types import EraseRequest

if TYPE_CHECKING:
    from torch import Tensor

    from erase_plugins.engine.pools import Pool
    from erase_plugins.families.base import ModuleRef, TargetInfo


#: module set -> group of the family
GROUPS = {"lierla": "transformer", "c3lier": "denoiser", "text": "text_side"}
#: layers -> group, and whether its modules are what is taken or what is left out
_LAYERS = {
    "full": None,
    "xattn": ("cross_attn", True),
    "selfattn": ("self_attn", True),
    "noxattn": ("cross_attn", False),
}


@dataclass(frozen=True)
class LECOOptions(StartOptions, RolloutOptions):
    """Options of LECO."""

    presets = "../presets/leco.toml"

    rank: int = option(4, "LoRA rank", low=1, high=1024)
    alpha: float = option(1.0, "scale times rank", low=1e-3, high=1024.0)
    iterations: int = option(500, "training steps", low=1)
    optimizer: str = option("adamw", "optimizer", choices=OPTIMIZERS)
    modules: str = option(
        "lierla",
        "lierla: transformers; c3lier: also the convolution blocks; text (flow transformers): keys and values "
        "of the text and the layers that take it in",
        choices=tuple(GROUPS),
    )
    layers: str = option("full", "full, xattn, selfattn, noxattn", choices=tuple(_LAYERS),
                         searched=("full", "xattn"))  # fmt: skip
    action: str = option("erase", "erase, or enhance", choices=("erase", "enhance"))
    eta: float = option(1.0, "how far to go along the direction", low=0.0, high=100.0, searched=(0.5, 3.0))
    positive: str | None = option(None, "prompt of the direction; none: the concept itself")
    unconditional: str | None = option(None, "prompt at the other end of the direction; none: the empty prompt")
    neutral: str | None = option(
        None, Sentence("prompt that the concept becomes; none: ", Hint("to"), ", else the empty prompt")
    )
    attributes: tuple[str, ...] = option((), "words put before all four prompts in turn, to keep them apart")
    templates: tuple[str, ...] = option(("{}",), "prompts trained on; {} is the concept")

    @property
    def scale(self) -> float:
        """Factor of the low-rank product."""
        return self.alpha / self.rank


def leco_target(neutral: Tensor, positive: Tensor, unconditional: Tensor, eta: float, action: str = "erase") -> Tensor:
    """eps*(nu) -/+ eta (eps*(pi) - eps*(u)), tensors (batch, channels, height, width)."""
    sign = -1.0 if action == "erase" else 1.0
    return neutral + sign * eta * (positive - unconditional)


class LECO(TrainedMethod):
    """Erasing (or sliding) LoRA trained from prompts alone."""

    id = "leco"
    title = "LECO and concept sliders"
    paper = "https://arxiv.org/abs/2311.12092"
    summary = "erasing LoRA and sliders from four prompts, in the form that the community shares"
    needs = frozenset({"denoiser", "text"})
    kinds = frozenset({"object", "style", "person", "explicit"})
    produces = frozenset({"lowrank"})
    Options = LECOOptions
    recomputes = True

    def settle(self, options: LECOOptions, request: EraseRequest, info: TargetInfo) -> LECOOptions:
        check_templates(options.templates)
        check_becomes(request)
        if options.positive is not None and options.positive == options.unconditional:
            raise RequestError("positive and unconditional are the same prompt; there is no direction between them")
        anchored = [concept.text for concept in request.concepts if concept.anchor is not None]
        if anchored and options.neutral is not None:
            raise RequestError(f"'{anchored[0]}' has ", Hint("to"), " and there is neutral as well; give one of them")
        return replace(options, harvest=min(options.harvest, options.steps))

    def modules(self, info: TargetInfo, options: LECOOptions) -> list[ModuleRef]:
        found = [ref for ref in info.modules(GROUPS[options.modules]) if ref.kind in ("linear", "conv")]
        chosen = _LAYERS[options.layers]
        if chosen is None:
            return found
        group, taken = chosen
        return [ref for ref in found if info.family.groups[group](ref) == taken]

    def trajectories(self, request: EraseRequest, options: LECOOptions) -> int:
        return len(request.concepts) * options.trajectories * max(len(options.attributes), 1)

    def cost(self, request: EraseRequest, options: LECOOptions) -> Cost:
        cost = super().cost(request, options)
        watched = sum(text is not None for text in (options.positive, options.unconditional, options.neutral))
        return replace(cost, forwards=cost.forwards + watched * cost.states)

    def prepare(self, run: TrainingRun) -> Pool:
        options = run.options
        prompts = ErasePrompts.of(run.request, options.templates, options.trajectories)
        words = [f"{attribute} ".lstrip() for attribute in options.attributes] or [""]
        erased = [word + prompt for word in words for prompt in prompts.erased]

        def told(texts: list[str]) -> list[str] | None:
            """A prompt per trajectory; None where the empty prompt is meant, which every state knows."""
            return [(word + text).strip() for word in words for text in texts] if any(texts) else None

        count = len(prompts.erased)
        watch = {
            "positive": told([options.positive or ""] * count),
            "unconditional": told([options.unconditional or ""] * count),
            "neutral": told(prompts.neutral if options.neutral is None else [options.neutral] * count),
        }
        return run.pool("erase", erased, {name: texts for name, texts in watch.items() if texts})

    def loss(self, run: TrainingRun, step: int) -> Tensor:
        options = run.options
        states, cond = run.state.batch(options.batch, step)
        seen, null = states.predictions, states.predictions["null"]
        wanted = leco_target(
            seen.get("neutral", null), seen.get("positive", seen["prompt"]), seen.get("unconditional", null),
            options.eta, options.action,
        )  # fmt: skip
        return run.mean_squares([(states, cond, wanted, 1.0), *run.retain(step)])


@hookimpl
def erase_methods() -> list[LECO]:
    return [LECO()]
