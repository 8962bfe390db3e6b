"""SPM: concept semi-permeable membranes (Lyu et al., CVPR 2024, arXiv 2312.16145).

Every concept gets a memory of very low rank on all linear layers and convolutions of the transformer blocks, trained
with negative guidance on the concept's prompt and held still elsewhere (latent anchoring):

    L = |eps(x_t, c) - (eps*(n) - eta (eps*(c) - eps*(0)))|^2 + w |eps(x_t, z) - eps*(x_t, z)|^2

with n the neutral prompt (what the concept becomes) and z random embeddings as long as the concept's. At run time a
gate per concept opens the memory as far as the prompt means the concept (facilitated transport).

Differs from the official code:
    - memories add up as sum_i g_i U_i D_i; the official inference scales both factors (g squared) and multiplies
      factors of different memories;
    - states come from harvested trajectories of the teacher instead of rollouts with the memory on, and only the
      conditional half is computed;
    - several concepts train at once, every sample meeting the memory of its own concept;
    - the gate: flattened embeddings of short prompts are alike because padding dominates (on the embedded model their
      cosine is 0.95-0.97 for prompts with the concept and 0.93-0.97 for others), so by default a probe on the mean
      embedding row decides, fitted in closed form on the vocabulary; ``gate=cosine`` is the published cosine, without
      its token overlap (the gate sees embeddings only) and with thresholds;
    - besides random embeddings, predictions for vocabulary words and for --keep can be held (on for toy-sized models);
    - plain Adam at a constant rate, no 8-bit optimizer, no restarts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from erase_plugins.engine.erasing import ErasePrompts, all_phrases, check_becomes, resolved
from erase_plugins.engine.training_options import RolloutOptions, check_templates, revive
from erase_plugins.errors import RequestError
from erase_plugins.hookspecs import hookimpl
from erase_plugins.options import as_dict, option
from erase_plugins.types import EditPlan, EraseRequest

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from erase_plugins.artifacts.edit import Edit
    from erase_plugins.engine.context import RunContext
    from erase_plugins.engine.gating import GateRecipe
    from erase_plugins.engine.memories import Memories
    from erase_plugins.engine.pools import Part, Rollout
    from erase_plugins.families.base import Conditioning, Target, TargetInfo


@dataclass(frozen=True)
class SPMOptions(RolloutOptions):
    """Options of SPM."""

    presets = "../presets/spm.toml"

    rank: int = option(1, "directions of one concept's memory", low=1, high=256)
    iterations: int = option(3000, "training steps for one concept", low=1)
    growth: float = option(1.0, "training steps grow with the number of concepts to this power", low=0.0, high=1.0)
    eta: float = option(1.0, "negative guidance", low=0.0, high=100.0)
    templates: tuple[str, ...] = option(("{}",), "prompts trained on; {} is the concept")
    steps: int = option(30, "sampler steps of a rollout", low=1, high=1000)
    anchors: int = option(4, "random embeddings held per step; 0 switches it off", low=0, high=256)
    anchor_weight: float = option(1000.0, "weight of the held random embeddings; lower it for SDXL", low=0.0)
    gate: str = option("probe", "how a prompt opens the memory: probe, or cosine (published)",
                       choices=("probe", "cosine"))  # fmt: skip
    gate_words: int = option(1000, "vocabulary words that the probe learns from", low=8, high=50_000)
    gate_low: float = option(0.45, "score at which the gate begins to open", low=-10.0, high=10.0)
    gate_high: float = option(0.75, "score at which the gate is fully open", low=-10.0, high=10.0)

    def gates(self) -> GateRecipe:
        """How the gates are made."""
        from erase_plugins.engine.gating import GateRecipe

        return GateRecipe(self.gate, self.gate_words, self.near, self.gate_low, self.gate_high)


def pseudo_embeddings(concept: Tensor, count: int, generator: Generator) -> Tensor:
    """Random embeddings (count, tokens, dim) of 0.8 to 1.2 times the length of ``concept`` (tokens, dim).

    A candidate is accepted with probability 1 - cos to the concept.
    """
    import torch

    found: list[Tensor] = []
    norm = concept.float().norm().cpu()
    unit = concept.float().cpu() / norm
    while len(found) < count:
        z = torch.randn(concept.shape, generator=generator)
        z = z / z.norm()
        chance, length = torch.rand(2, generator=generator)
        if chance < 1 - (z * unit).sum():
            found.append(z * norm * (0.8 + 0.4 * length))
    return torch.stack(found).to(concept.device, concept.dtype)


class SPM:
    """Gated one-dimensional memories: erased concepts combine freely, unrelated prompts stay as they are."""

    id = "spm"
    title = "Concept Semi-Permeable Membrane"
    paper = "https://arxiv.org/abs/2312.16145"
    summary = "one small memory per concept behind a gate that the prompt opens; combine and revoke freely"
    families = frozenset({"sd1", "sdxl"})
    kinds = frozenset({"object", "style", "person", "explicit"})
    produces = frozenset({"addon"})
    needs = frozenset({"diffusers"})
    Options = SPMOptions
    work_files: ClassVar[tuple[str, ...]] = ("states-*.safetensors",)
    contract_options: ClassVar[dict[str, Any]] = {
        "iterations": 3, "trajectories": 2, "harvest": 2, "steps": 4, "keep_words": 2, "keep_batch": 1, "anchors": 1,
        "checkpoint_every": 1, "gate_words": 40, "gate_low": -1.0,
    }  # fmt: skip

    def plan(self, request: EraseRequest, info: TargetInfo) -> EditPlan:
        from erase_plugins.engine import training_plan as cost

        options = self._resolve(request, info)
        cost.check_trainable(self.id, info)
        refs = tuple(ref for ref in info.modules("transformer") if ref.kind in ("linear", "conv"))
        many, kept = len(request.concepts), options.kept(request)
        rolled = many * options.trajectories + kept
        steps = round(options.iterations * many**options.growth)
        return EditPlan(
            request=request,
            options=as_dict(options),
            modules=tuple(f"{ref.component}.{ref.path}" for ref in refs),
            steps=steps,
            notes=("strength depends on the prompt; LoRA files hold the memories with their gates fixed at 1",),
            **cost.estimate(
                info, request, cost.trainable(refs, options.rank) * many,
                forwards=2.0 * options.steps * rolled + steps * options.anchors, iterations=steps,
                batch=options.batch + options.anchors + options.keep_batch * (kept > 0),
                states=rolled * options.harvest,
            ),
        )  # fmt: skip

    def _resolve(self, request: EraseRequest, info: TargetInfo) -> SPMOptions:
        options: SPMOptions = resolved(SPMOptions, request, info)
        check_templates(options.templates)
        check_becomes(request)
        if not options.gate_low < options.gate_high:
            raise RequestError(f"gate_low={options.gate_low:g} must be below gate_high={options.gate_high:g}")
        return replace(options, harvest=min(options.harvest, options.steps))

    def run(self, plan: EditPlan, target: Target, ctx: RunContext) -> Edit:
        from erase_plugins.engine.gating import make_gate
        from erase_plugins.engine.loop import train
        from erase_plugins.engine.memories import Memories
        from erase_plugins.engine.run import plan_key

        options, key = revive(SPMOptions, plan.options), plan_key(plan)
        concepts, wanted = plan.request.concepts, set(plan.modules)
        refs = [ref for ref in target.modules("transformer") if f"{ref.component}.{ref.path}" in wanted]
        memories = Memories(target, refs, options.rank, len(concepts), ctx.generator("memories"))
        ctx.precision = options.precision
        ctx.start(plan.steps)
        phrases = [[concept.text, *concept.prompts] for concept in concepts]
        gate = make_gate(target, [concept.text for concept in concepts], phrases, options.gates(), ctx)
        with memories:
            loss = self._loss(plan.request, options, options.rollout_on(target, memories, ctx), memories, key)
            schedule = replace(options.schedule(), iterations=plan.steps)
            train(ctx, memories, loss, schedule, key, edit_of=lambda: memories.gated(gate))
        return memories.gated(gate)

    def _loss(
        self, request: EraseRequest, options: SPMOptions, rollout: Rollout, memories: Memories, key: str
    ) -> Callable[[int], Tensor]:
        """The loss of a training step, over pools of teacher states."""
        from erase_plugins.engine.pools import Part, mean_squares

        prompts = ErasePrompts.of(request, options.templates, options.trajectories)
        anchored = any(prompts.neutral)
        pool = rollout.pool("erase", prompts.erased, key, watch={"neutral": prompts.neutral} if anchored else None)
        holding = options.holding(rollout, request, all_phrases(request), options.templates, key)
        many = len(request.concepts)

        def loss(step: int) -> Tensor:
            states, cond = pool.batch(options.batch, step)
            seen = states.predictions
            base = seen["neutral"] if anchored else seen["null"]
            mine = [prompts.owners[row] for row in states.row.tolist()]
            parts = [Part(states, cond, base - options.eta * (seen["prompt"] - seen["null"]), 1.0)]
            numbers: list[Sequence[int]] = [mine]
            if options.anchors:
                place = slice(0, 1)
                parts.append(anchor_part(rollout, memories, states, cond, options, step))
                numbers.append(mine[place] * options.anchors)
            if holding is not None:
                states, cond = holding.batch(options.keep_batch, step)
                parts.append(Part(states, cond, states.predictions["prompt"], options.keep_weight))
                numbers.append([(step + place) % many for place in range(len(states))])
            with memories.recalled(*numbers):
                return mean_squares(rollout.target, parts, rollout.ctx)

        return loss


def anchor_part(
    rollout: Rollout, memories: Memories, states: Any, cond: Conditioning, options: SPMOptions, step: int
) -> Part:
    """Teacher predictions for random embeddings at the first state of the batch, to be held."""
    import torch

    from erase_plugins.engine.pools import Part
    from erase_plugins.engine.trajectories import ask, repeat

    generator = rollout.ctx.generator(f"anchors {step}")
    rows = pseudo_embeddings(cond.embeds[0], options.anchors, generator)
    held = replace(repeat(cond[:1], options.anchors), embeds=rows)
    first = states[torch.zeros(options.anchors, dtype=torch.long)]
    with torch.no_grad(), memories.disabled():
        wanted = ask(rollout.target, first.inputs, first.timestep, held, rollout.ctx)
    return Part(first, held, wanted, options.anchor_weight)


@hookimpl
def erase_methods() -> list[SPM]:
    return [SPM()]
