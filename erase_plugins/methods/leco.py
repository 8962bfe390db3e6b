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
    - "down" starts Gaussian of variance 1/in; what must stay can be held (on for toy-sized models and with --keep).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from erase_plugins.engine.erasing import ErasePrompts, all_phrases, check_becomes, resolved, shared_iterations
from erase_plugins.engine.training_options import RolloutOptions, check_templates, revive
from erase_plugins.errors import RequestError
from erase_plugins.hookspecs import hookimpl
from erase_plugins.options import as_dict, option
from erase_plugins.types import EditPlan, EraseRequest

if TYPE_CHECKING:
    from torch import Tensor

    from erase_plugins.artifacts.edit import Edit
    from erase_plugins.engine.context import RunContext
    from erase_plugins.engine.pools import Rollout
    from erase_plugins.families.base import ModuleRef, Target, TargetInfo

#: module set -> group of the family
GROUPS = {"lierla": "transformer", "c3lier": "denoiser"}
_LAYERS: dict[str, Callable[[str], bool]] = {
    "full": lambda path: True,
    "xattn": lambda path: "attn2" in path,
    "selfattn": lambda path: "attn1" in path,
    "noxattn": lambda path: "attn2" not in path,
}


@dataclass(frozen=True)
class LECOOptions(RolloutOptions):
    """Options of LECO."""

    presets = "../presets/leco.toml"

    rank: int = option(4, "LoRA rank", low=1, high=1024)
    alpha: float = option(1.0, "scale times rank", low=1e-3, high=1024.0)
    iterations: int = option(500, "training steps", low=1)
    optimizer: str = option("adamw", "optimizer", choices=("adam", "adamw", "sgd"))
    modules: str = option("lierla", "lierla: transformers; c3lier: also the convolution blocks", choices=tuple(GROUPS))
    layers: str = option("full", "full, xattn, selfattn, noxattn", choices=tuple(_LAYERS))
    action: str = option("erase", "erase, or enhance", choices=("erase", "enhance"))
    eta: float = option(1.0, "how far to go along the direction", low=0.0, high=100.0)
    positive: str | None = option(None, "prompt of the direction; none: the concept itself")
    unconditional: str | None = option(None, "prompt at the other end of the direction; none: the empty prompt")
    neutral: str | None = option(None, "prompt that the concept becomes; none: --to, else the empty prompt")
    attributes: tuple[str, ...] = option((), "words put before all four prompts in turn, to keep them apart")
    templates: tuple[str, ...] = option(("{}",), "prompts trained on; {} is the concept")


def leco_target(neutral: Tensor, positive: Tensor, unconditional: Tensor, eta: float, action: str = "erase") -> Tensor:
    """eps*(nu) -/+ eta (eps*(pi) - eps*(u)), tensors (batch, channels, height, width)."""
    sign = -1.0 if action == "erase" else 1.0
    return neutral + sign * eta * (positive - unconditional)


class LECO:
    """Erasing (or sliding) LoRA trained from prompts alone."""

    id = "leco"
    title = "LECO and concept sliders"
    paper = "https://arxiv.org/abs/2311.12092"
    summary = "erasing LoRA and sliders from four prompts, in the form that the community shares"
    families = frozenset({"sd1", "sdxl"})
    kinds = frozenset({"object", "style", "person", "explicit"})
    produces = frozenset({"lowrank"})
    needs = frozenset({"diffusers"})
    Options = LECOOptions
    work_files: ClassVar[tuple[str, ...]] = ("states-*.safetensors",)
    contract_options: ClassVar[dict[str, Any]] = {
        "iterations": 3, "trajectories": 2, "harvest": 2, "steps": 4, "keep_words": 2, "keep_batch": 1,
        "checkpoint_every": 1,
    }  # fmt: skip

    def plan(self, request: EraseRequest, info: TargetInfo) -> EditPlan:
        from erase_plugins.engine import training_plan as cost

        options = self._resolve(request, info)
        cost.check_trainable(self.id, info)
        refs = trained(info.modules(GROUPS[options.modules]), options.layers)
        many, kept = len(request.concepts), options.kept(request)
        rolled = many * options.trajectories * max(len(options.attributes), 1) + kept
        watched = sum(text is not None for text in (options.positive, options.unconditional, options.neutral))
        return EditPlan(
            request=request,
            options=as_dict(options),
            modules=tuple(f"{ref.component}.{ref.path}" for ref in refs),
            steps=options.iterations,
            warnings=shared_iterations(request, options.iterations),
            **cost.estimate(
                info, request, cost.trainable(refs, options.rank),
                forwards=2.0 * options.steps * rolled + watched * rolled * options.harvest,
                iterations=options.iterations, batch=options.batch + options.keep_batch * (kept > 0),
                states=rolled * options.harvest,
            ),
        )  # fmt: skip

    def _resolve(self, request: EraseRequest, info: TargetInfo) -> LECOOptions:
        options: LECOOptions = resolved(LECOOptions, request, info)
        check_templates(options.templates)
        check_becomes(request)
        if options.positive is not None and options.positive == options.unconditional:
            raise RequestError("positive and unconditional are the same prompt; there is no direction between them")
        anchored = [concept.text for concept in request.concepts if concept.anchor is not None]
        if anchored and options.neutral is not None:
            raise RequestError(f"'{anchored[0]}' has --to and there is neutral as well; give one of them")
        return replace(options, harvest=min(options.harvest, options.steps))

    def run(self, plan: EditPlan, target: Target, ctx: RunContext) -> Edit:
        from erase_plugins.engine.adapters import Adapters
        from erase_plugins.engine.loop import train
        from erase_plugins.engine.run import plan_key

        options, key = revive(LECOOptions, plan.options), plan_key(plan)
        refs = trained(target.modules(GROUPS[options.modules]), options.layers)
        adapters = Adapters(target, refs, options.rank, options.alpha / options.rank, ctx.generator("adapters"))
        ctx.precision = options.precision
        ctx.start(options.iterations)
        with adapters:
            loss = self._loss(plan.request, options, options.rollout_on(target, adapters, ctx), key)
            train(ctx, adapters, loss, options.schedule(), key)
        return adapters.edit()

    def _loss(self, request: EraseRequest, options: LECOOptions, rollout: Rollout, key: str) -> Callable[[int], Tensor]:
        """The loss of a training step, over pools of teacher states."""
        from erase_plugins.engine.pools import Part, mean_squares

        prompts = ErasePrompts.of(request, options.templates, options.trajectories)
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
        pool = rollout.pool("erase", erased, key, watch={name: texts for name, texts in watch.items() if texts})
        holding = options.holding(rollout, request, all_phrases(request), options.templates, key)

        def loss(step: int) -> Tensor:
            states, cond = pool.batch(options.batch, step)
            seen = states.predictions
            null = seen["null"]
            wanted = leco_target(
                seen.get("neutral", null), seen.get("positive", seen["prompt"]), seen.get("unconditional", null),
                options.eta, options.action,
            )  # fmt: skip
            parts = [Part(states, cond, wanted, 1.0)]
            if holding is not None:
                states, cond = holding.batch(options.keep_batch, step)
                parts.append(Part(states, cond, states.predictions["prompt"], options.keep_weight))
            return mean_squares(rollout.target, parts, rollout.ctx)

        return loss


def trained(refs: tuple[ModuleRef, ...], layers: str) -> list[ModuleRef]:
    """The modules of a group that a layer choice leaves."""
    return [ref for ref in refs if ref.kind in ("linear", "conv") and _LAYERS[layers](ref.path)]


@hookimpl
def erase_methods() -> list[LECO]:
    return [LECO()]
