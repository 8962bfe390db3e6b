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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar

from erase_plugins.engine.closed_form_options import ClosedFormOptions
from erase_plugins.engine.optimizers import OPTIMIZERS
from erase_plugins.engine.prompt_templates import FRAMES, SAFE, VARIANTS
from erase_plugins.errors import RequestError
from erase_plugins.hints import Hint, Sentence
from erase_plugins.hookspecs import hookimpl
from erase_plugins.options import option
from erase_plugins.training import Cost, StagedMethod, TrainingOptions, TrainingRun
from erase_plugins.training.options import check_templates, spread
from erase_plugins.types import EditPlan, EraseRequest

if TYPE_CHECKING:
    from torch import Tensor

    from erase_plugins.artifacts.statistics import Statistics
    from erase_plugins.engine.collect import Recipe
    from erase_plugins.families.base import ModuleRef, TargetInfo


@dataclass(frozen=True)
class TRCEOptions(TrainingOptions, ClosedFormOptions):
    """Options of TRCE."""

    presets = "../presets/trce.toml"

    stages: str = option("both", "both, or only the closed form on text (seconds)", choices=("both", "closed"),
                         searched=("both", "closed"))  # fmt: skip
    tokens: str = option("eot", "rows that stand for a prompt: the end row, it and the last word's, or all from there",
                         choices=("eot", "last+eot", "window"))  # fmt: skip
    safe: str | None = option(
        None, Sentence("what takes the concept's place where ", Hint("to"), " does not say; none picks it by kind")
    )
    frames: tuple[str, ...] = option(FRAMES, "prompts around the concept in stage 1")
    variants: bool = option(True, "also take mechanical variants of the concept")
    aliases: bool = option(True, "also take words that mean the same in the text encoder's vocabulary",
                           searched=(True, False))  # fmt: skip
    rho: float = option(0.1, "energy of the kept rows, in units of the erased rows'", low=0.0, searched=(0.01, 1.0))
    lam: float = option(1e-4, "ridge term, in units of the system's mean diagonal", low=1e-12)
    templates: tuple[str, ...] = option(("a photo of {}",), "prompts of stage 2; {} is the concept")
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
    optimizer: str = option("adamw", "optimizer", choices=OPTIMIZERS)
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


class TRCE(StagedMethod):
    """Text first, then the trajectory: for broad concepts that leak through other words."""

    id = "trce"
    title = "Towards Reliable Concept Erasure"
    paper = "https://arxiv.org/abs/2503.07389"
    summary = "maps end-of-text rows to safe prompts in closed form, then steers early denoising away (LoRA)"
    kinds = frozenset({"object", "style", "person", "explicit"})
    produces = frozenset({"contextmap", "lowrank", "dense"})
    Options = TRCEOptions
    recomputes = True
    contract_options: ClassVar[dict[str, Any]] = {
        **StagedMethod.contract_options, "vocabulary": 60, "free": 2, "free_batch": 1, "batch": 1,
        "templates": ("{}",), "frames": ("{}", "a {}"), "variants": False,
    }  # fmt: skip

    def settle(self, options: TRCEOptions, request: EraseRequest, info: TargetInfo) -> TRCEOptions:
        settled: TRCEOptions = super().settle(options, request, info)
        check_templates(options.frames)
        return replace(settled, harvest=min(settled.harvest, options.early_steps))

    def modules(self, info: TargetInfo, options: TRCEOptions) -> Sequence[ModuleRef]:
        return info.modules("visual")

    def cost(self, request: EraseRequest, options: TRCEOptions) -> Cost:
        guided = max(options.trajectories, len(request.concepts) * len(options.templates))
        early, kept = options.early_steps, options.kept(request)
        steered = (1 + (options.steer_null > 0)) * options.batch
        return Cost(
            guided * (2 * early + options.harvest) + options.steps * (options.free + 2 * kept),
            steered + options.free_batch + options.keep_batch * (kept > 0),
            guided * early + options.steps * (options.free + kept),
        )

    def complete(self, request: EraseRequest, options: TRCEOptions) -> EraseRequest:
        """Every concept with its safe phrase.

        Raises:
            RequestError: a safe phrase is empty; the end row of an empty prompt says nothing about the context.
        """
        concepts = []
        for concept in request.concepts:
            anchor = concept.anchor if concept.anchor is not None else options.safe
            anchor = SAFE.get(concept.kind, SAFE["object"]) if anchor is None else anchor
            if not anchor.strip():
                raise RequestError(
                    f"the safe phrase of '{concept.text}' is empty; name what takes its place, ",
                    Hint("to", "art", before="for example"),
                )
            concepts.append(replace(concept, anchor=anchor))
        return replace(request, forget=tuple(concepts))

    def closed_plan(self, request: EraseRequest, options: TRCEOptions, info: TargetInfo) -> EditPlan:
        return super().closed_plan(_varied(request, options.variants), options, info)

    def solver(self, run: TrainingRun) -> Mapping[str, Any]:
        return {"rho": run.options.rho, "lam": None, "lam_share": run.options.lam}

    def collect(self, run: TrainingRun, request: EraseRequest | None = None) -> Statistics:
        return super().collect(run, _varied(request or run.request, run.options.variants))

    def prepare(self, run: TrainingRun) -> SimpleNamespace:
        """Teacher states towards the concept, and states of the stage-1 model without a prompt."""
        import torch

        from erase_plugins.engine.trajectories import picked

        options, rollout = run.options, run.rollout
        mined = [alias for member in run.statistics.members.values() for alias in member.facts["aliases"]]
        guides = {
            phrase: member.facts["guide"]
            for member in run.statistics.members.values()
            for phrase in (*member.facts["phrases"], *member.facts["aliases"])
        }
        rows = spread(run.phrases, mined, options.templates, options.trajectories)
        unsafe = [template.format(name) for template, name in rows]
        safe = [template.format(guides[name]) for template, name in rows]
        malicious = rollout.pool("erase", unsafe, run.key, {"safe": safe}, early=options.early_steps)
        null = run.mapped(rollout.blank(2))
        free = replace(rollout, harvest=options.steps).pool(
            "free", [""] * options.free, run.key, cond=picked(null, torch.arange(options.free)), unguided=True
        )
        return SimpleNamespace(malicious=malicious, free=free, null=null)

    def loss(self, run: TrainingRun, step: int) -> Tensor:
        """The student sees prompts through the map of stage 1."""
        import torch

        from erase_plugins.engine.trajectories import picked

        options, state = run.options, run.state

        def error(out: Tensor, wanted: Tensor) -> Tensor:
            values = hinge(out, wanted, options.beta, options.margin)
            run.ctx.count("steered", int((values > 0).sum()) / len(values))
            return values.mean()

        states, cond = state.malicious.batch(options.batch, step)
        seen, share = states.predictions, 1.0 / (1.0 + options.steer_null)
        ends = [seen[name] + options.push * (seen[name] - seen["null"]) for name in ("safe", "prompt")]
        wanted = torch.stack(ends, 1)
        parts: list[Any] = [(states, run.mapped(cond), wanted, options.steer_weight * share, error)]
        if options.steer_null > 0:
            weight = options.steer_weight * options.steer_null * share
            parts.append((states, picked(state.null, states.row), wanted, weight, error))
        states, cond = state.free.batch(options.free_batch, step)
        parts.append((states, cond, states.predictions["prompt"], options.free_weight))
        return run.mean_squares([*parts, *run.retain(step, run.mapped)])


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
