"""TRCE: closed form on the end-of-text embedding, then steering of early denoising (Chen et al., ICCV 2025,
arXiv 2503.07389).

Stage 1 maps the end row of every prompt with the concept onto the end row of the same prompt with a safe phrase, in the
keys and values of cross-attention. Stage 2 trains self-attention and the queries (LoRA) on early states of
trajectories towards the concept: with a_0, a_m, a_s the frozen model's predictions for the empty prompt, the concept
and the safe phrase, and targets p = a_s + g (a_s - a_0), r = a_m + g (a_m - a_0),

    L = mean over n = eps(x, m), eps(x, "") of max(0, beta (|n - p|^2 - |n - r|^2 + margin))
        + w |eps(x_u, "") - eps_1(x_u, "")|^2

where eps_1 is the model after stage 1 and x_u lie on its own trajectories without a prompt.

Differs from the official code (``run_trce_stage1.py``, ``stage2_data_preparation.py``, ``run_trce_stage2.py``):
    - the end row is found by its token; the official index counts words and misses it where a word has several tokens;
    - one solve for all layers, with kept rows weighed by ``rho``, a share of the erased energy, and a ridge term;
    - what is kept are words of the text encoder's vocabulary and what is named with --keep, not a cache of captions;
    - phrases are the concept, the given ones, mechanical variants and words mined from the vocabulary; no language
      model writes them;
    - losses are taken at the state a prediction belongs to, not one sampler step later; gradients do not accumulate;
    - concept trajectories end where training stops looking at them and lend their own predictions to the targets; free
      trajectories are run by the stage-1 model without guidance, so that they carry the regulariser's target;
    - LoRA instead of full weights; optionally words of the vocabulary are held at the frozen model's predictions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from erase_plugins.engine.closed_form_options import ClosedFormOptions
from erase_plugins.engine.erasing import all_phrases, resolved
from erase_plugins.engine.frames import (
    FRAMES,
    SAFE,
    VARIANTS,
)
from erase_plugins.engine.training_options import TrainingOptions, check_templates, revive, spread
from erase_plugins.errors import RequestError
from erase_plugins.hookspecs import hookimpl
from erase_plugins.options import option
from erase_plugins.types import EditPlan, EraseRequest

if TYPE_CHECKING:
    from torch import Tensor

    from erase_plugins.artifacts.edit import Edit
    from erase_plugins.artifacts.statistics import Statistics
    from erase_plugins.engine.collect import Recipe
    from erase_plugins.engine.context import RunContext
    from erase_plugins.engine.pools import Rollout
    from erase_plugins.families.base import Target, TargetInfo
    from erase_plugins.families.target import FamilyTraits


@dataclass(frozen=True)
class TRCEOptions(TrainingOptions, ClosedFormOptions):
    """Options of TRCE."""

    presets = "../presets/trce.toml"

    stages: str = option("both", "both, or only the closed form on text (seconds)", choices=("both", "closed"))
    tokens: str = option("eot", "rows that stand for a prompt: the end row, it and the last word's, or all from there",
                         choices=("eot", "last+eot", "window"))  # fmt: skip
    safe: str | None = option(None, "what takes the concept's place where --to does not say; none picks it by kind")
    frames: tuple[str, ...] = option(
        FRAMES,
        "prompts around the concept in stage 1",
    )
    variants: bool = option(True, "also take mechanical variants of the concept")
    aliases: bool = option(True, "also take words that mean the same in the text encoder's vocabulary")
    rho: float = option(0.1, "energy of the kept rows, in units of the erased rows'", low=0.0)
    lam: float = option(1e-4, "ridge term, in units of the system's mean diagonal", low=1e-12)
    templates: tuple[str, ...] = option(
        ("a photo of {}",), "prompts of stage 2; {} is the concept",
    )  # fmt: skip
    push: float = option(15.0, "g: how far the targets overshoot the safe and the unsafe prediction", low=0.0)
    margin: float = option(0.01, "distance by which the safe target must be closer", low=0.0)
    beta: float = option(1.0, "slope of the hinge", low=0.0)
    early: float = option(0.5, "share of the sampler steps that is steered, from pure noise on", low=0.01, high=1.0)
    steer_weight: float = option(1.0, "weight of the steering term", low=0.0)
    steer_null: float = option(1.0, "weight of the empty prompt in it; guidance turns what it learns around", low=0.0)
    free_weight: float = option(100.0, "weight of the regulariser without a prompt", low=0.0)
    free_batch: int = option(4, "regulariser states per training step", low=1, high=1024)
    free: int = option(64, "trajectories without a prompt", low=1)
    parameters: str = option("lora", "lora, or full weights as published", choices=("lora", "full"))
    rank: int = option(16, "LoRA rank; alpha equals rank", low=1, high=1024)
    optimizer: str = option("adamw", "optimizer", choices=("adam", "adamw", "sgd"))
    iterations: int = option(300, "training steps", low=1)
    trajectories: int = option(100, "trajectories towards the concept", low=1)
    harvest: int = option(26, "states kept of each trajectory", low=1)
    keep_words: int = option(0, "vocabulary words to hold in stage 2, half of them the closest", low=0, high=10_000)

    @property
    def early_steps(self) -> int:
        """Sampler steps that are steered."""
        return max(round(self.early * self.steps), 1)

    def recipe(self) -> Recipe:
        """As for the other closed-form methods, with frames instead of six phrasings."""
        return replace(super().recipe(), templates=self.frames)


def hinge(out: Tensor, targets: Tensor, beta: float, margin: float) -> Tensor:
    """max(0, beta (|out - p|^2 - |out - r|^2 + margin)) per row, squares averaged over a row; (batch,).

    Args:
        out: predictions (batch, channels, height, width).
        targets: p and r (batch, 2, channels, height, width).
        beta, margin: slope, and by how much p must be closer.
    """
    safe, unsafe = ((out - target).square().mean((1, 2, 3)) for target in targets.unbind(1))
    return (beta * (safe - unsafe + margin)).clamp_min(0)


class TRCE:
    """Text first, then the trajectory: for broad concepts that leak through other words."""

    id = "trce"
    title = "Towards Reliable Concept Erasure"
    paper = "https://arxiv.org/abs/2503.07389"
    summary = "maps end-of-text rows to safe prompts in closed form, then steers early denoising away (LoRA)"
    families = frozenset({"sd1", "sdxl"})
    kinds = frozenset({"object", "style", "person", "explicit"})
    produces = frozenset({"contextmap", "lowrank", "dense", "bias"})
    needs = frozenset({"diffusers"})
    Options = TRCEOptions
    work_files: ClassVar[tuple[str, ...]] = ("states-*.safetensors",)
    contract_options: ClassVar[dict[str, Any]] = {
        "vocabulary": 60, "iterations": 3, "trajectories": 2, "harvest": 2, "steps": 4, "free": 2, "free_batch": 1,
        "keep_words": 2, "keep_batch": 1, "batch": 1, "checkpoint_every": 1, "templates": ("{}",),
        "frames": ("{}", "a {}"), "variants": False,
    }  # fmt: skip

    def plan(self, request: EraseRequest, info: TargetInfo) -> EditPlan:
        from erase_plugins.engine import training_plan as cost
        from erase_plugins.engine.estimate import closed_form_plan

        options: TRCEOptions = resolved(TRCEOptions, request, info)
        options = options.settled(request)
        options = replace(options, harvest=min(options.harvest, options.early_steps))
        check_templates(options.templates)
        check_templates(options.frames)
        asked, request = request, _safe(request, options.safe)
        plan = replace(closed_form_plan(_varied(request, options.variants), options, info), request=asked)
        if options.stages == "closed":
            return plan
        cost.check_trainable(self.id, info)
        guided = max(options.trajectories, len(request.concepts) * len(options.templates))
        early, kept = options.early_steps, options.kept(request)
        return cost.with_training(
            plan, options, info, info.modules("visual"),
            forwards=guided * (2 * early + options.harvest) + options.steps * (options.free + 2 * kept),
            batch=(1 + (options.steer_null > 0)) * options.batch + options.free_batch + options.keep_batch * (kept > 0),
            states=guided * early + options.steps * (options.free + kept),
        )  # fmt: skip

    def run(self, plan: EditPlan, target: Target, ctx: RunContext) -> Edit:
        from erase_plugins.engine.adapters import Adapters
        from erase_plugins.engine.collect import collect, summary
        from erase_plugins.engine.loop import train
        from erase_plugins.engine.mapping import stacked
        from erase_plugins.engine.run import plan_key

        options, key, request = (
            revive(TRCEOptions, plan.options),
            plan_key(plan),
            _safe(plan.request, plan.options["safe"]),
        )
        solver = {"method": self.id, "rho": options.rho, "lam": None, "lam_share": options.lam}
        varied = _varied(request, options.variants)
        statistics = collect(varied, options.recipe(), solver, target, ctx, need_sigma=False)
        summary(statistics, ctx)
        closed = self.solve(statistics, target.family)
        if options.stages == "closed":
            return closed
        refs = target.modules("visual")
        adapters = Adapters(target, refs, options.lora_rank, generator=ctx.generator("adapters"))

        def edit() -> Edit:
            return stacked(closed, adapters.edit(), [ref.weight for ref in target.modules("cross_kv")])

        ctx.precision = options.precision
        ctx.start(options.iterations)
        with adapters:
            loss = self._loss(request, options, statistics, closed, options.rollout_on(target, adapters, ctx), key)
            train(ctx, adapters, loss, options.schedule(), key, edit_of=edit)
        return edit()

    def solve(self, statistics: Statistics, family: FamilyTraits) -> Edit:
        """Stage 1 of given statistics; the joint solution of all members."""
        from erase_plugins.engine.solving import joint_edit

        return joint_edit(statistics, family)

    def _loss(
        self, request: EraseRequest, options: TRCEOptions, statistics: Statistics, closed: Edit, rollout: Rollout,
        key: str,
    ) -> Callable[[int], Tensor]:  # fmt: skip
        """The loss of a training step; the student sees prompts through the map of stage 1."""
        import torch

        from erase_plugins.artifacts.edit import CONTEXT
        from erase_plugins.artifacts.solved import DENOISER
        from erase_plugins.engine.mapping import mapped
        from erase_plugins.engine.pools import Part, mean_squares
        from erase_plugins.engine.trajectories import repeat

        change: Any = closed.deltas[DENOISER][CONTEXT]
        target, ctx = rollout.target, rollout.ctx
        mined = [alias for member in statistics.members.values() for alias in member.facts["aliases"]]
        guides = {
            phrase: member.facts["guide"]
            for member in statistics.members.values()
            for phrase in (*member.facts["phrases"], *member.facts["aliases"])
        }
        phrases = all_phrases(request)
        rows = spread(phrases, mined, options.templates, options.trajectories)
        unsafe = [template.format(name) for template, name in rows]
        safe = [template.format(guides[name]) for template, name in rows]
        malicious = rollout.pool("erase", unsafe, key, {"safe": safe}, early=options.early_steps)
        null = mapped(target.encode([""]), change)
        free = replace(rollout, harvest=options.steps).pool(
            "free", [""] * options.free, key, cond=repeat(null, options.free), unguided=True
        )
        holding = options.holding(rollout, request, phrases, options.templates, key)

        def error(out: Tensor, wanted: Tensor) -> Tensor:
            values = hinge(out, wanted, options.beta, options.margin)
            ctx.count("steered", int((values > 0).sum()) / len(values))
            return values.mean()

        def loss(step: int) -> Tensor:
            states, cond = malicious.batch(options.batch, step)
            seen, share = states.predictions, 1.0 / (1.0 + options.steer_null)
            ends = [seen[name] + options.push * (seen[name] - seen["null"]) for name in ("safe", "prompt")]
            wanted = torch.stack(ends, 1)
            parts = [Part(states, mapped(cond, change), wanted, options.steer_weight * share, error)]
            if options.steer_null > 0:
                weight = options.steer_weight * options.steer_null * share
                parts.append(Part(states, repeat(null, len(states)), wanted, weight, error))
            states, cond = free.batch(options.free_batch, step)
            parts.append(Part(states, cond, states.predictions["prompt"], options.free_weight))
            if holding is not None:
                states, cond = holding.batch(options.keep_batch, step)
                parts.append(Part(states, mapped(cond, change), states.predictions["prompt"], options.keep_weight))
            return mean_squares(target, parts, ctx)

        return loss


def _safe(request: EraseRequest, phrase: str | None) -> EraseRequest:
    """Every concept with its safe phrase.

    Raises:
        RequestError: a safe phrase is empty; the end row of an empty prompt says nothing about the context.
    """
    concepts = []
    for concept in request.concepts:
        anchor = concept.anchor if concept.anchor is not None else phrase
        anchor = SAFE.get(concept.kind, SAFE["object"]) if anchor is None else anchor
        if not anchor.strip():
            raise RequestError(
                f"the safe phrase of '{concept.text}' is empty; name what takes its place, for example --to art"
            )
        concepts.append(replace(concept, anchor=anchor))
    return replace(request, forget=tuple(concepts))


def _varied(request: EraseRequest, variants: bool) -> EraseRequest:
    """The request with mechanical variants among the phrasings of every concept."""
    if not variants:
        return request
    concepts = tuple(
        replace(concept, prompts=(*concept.prompts, *(text.format(concept.text) for text in VARIANTS)))
        for concept in request.concepts
    )
    return replace(request, forget=concepts)


@hookimpl
def erase_methods() -> list[TRCE]:
    return [TRCE()]
