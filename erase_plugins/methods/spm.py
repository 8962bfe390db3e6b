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
    - the gate is the larger of two values, as published. One is the overlap |tokens(prompt) and tokens(concept)| /
      |tokens(concept)|, counted in whole words, without words of grammar, over the concept's phrases and the words that
      mean the same; it needs token numbers, so it watches the text encoder while the artifact is applied, and where it
      did not see a prompt being encoded (embeddings given, ComfyUI) that is said and the other value decides alone;
    - the other value: flattened embeddings of short prompts are alike because padding dominates (on the embedded model
      their cosine is 0.95-0.97 for prompts with the concept and 0.93-0.97 for others), so by default a probe on the
      mean embedding row stands for the published cosine, fitted in closed form on the vocabulary; ``gate=cosine`` is
      that cosine, with thresholds. **Alone, either may stay shut on a prompt that names the concept among many other
      words** (on the embedded model 8 of 14 prompts written by hand, such as "a big pizza under the yellow moon");
    - on SDXL the pooled row of an anchor is random as its rows are;
    - besides random embeddings, predictions for vocabulary words and for --keep can be held (on for toy-sized models);
    - ``modules=text`` (flow transformers) puts the memories where the text enters: keys and values of the text in joint
      attention, and the layers that take in token rows and the pooled row;
    - plain Adam at a constant rate, no 8-bit optimizer, no restarts; on toy-sized models "down" starts Gaussian of
      variance 1/in instead of uniform within 1/sqrt(in).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar

from erase_plugins.engine.erasing import ErasePrompts, check_becomes
from erase_plugins.errors import RequestError
from erase_plugins.hookspecs import hookimpl
from erase_plugins.options import option
from erase_plugins.training import Cost, RolloutOptions, TrainedMethod, TrainingRun
from erase_plugins.training.options import StartOptions, check_templates
from erase_plugins.types import STAND_IN, EraseRequest

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from erase_plugins.artifacts.edit import Edit
    from erase_plugins.engine.gating import GateRecipe
    from erase_plugins.engine.pools import Part
    from erase_plugins.families.base import Conditioning, ModuleRef, TargetInfo
    from erase_plugins.training.concept_loras import Memories


#: where memories lie -> group of the family
GROUPS = {"transformer": "transformer", "text": "text_side"}


@dataclass(frozen=True)
class SPMOptions(StartOptions, RolloutOptions):
    """Options of SPM."""

    presets = "../presets/spm.toml"

    rank: int = option(1, "directions of one concept's memory", low=1, high=256)
    iterations: int = option(3000, "training steps for one concept", low=1)
    modules: str = option("transformer", "where the memories lie: transformer (its linear layers and convolutions), or "
                          "text (flow transformers: where the text enters)", choices=tuple(GROUPS))  # fmt: skip
    growth: float = option(1.0, "training steps grow with the number of concepts to this power", low=0.0, high=1.0)
    eta: float = option(1.0, "negative guidance", low=0.0, high=100.0, searched=(0.5, 3.0))
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


class SPM(TrainedMethod):
    """Gated one-dimensional memories: erased concepts combine freely, unrelated prompts stay as they are."""

    id = "spm"
    title = "Concept Semi-Permeable Membrane"
    paper = "https://arxiv.org/abs/2312.16145"
    summary = "one small memory per concept behind a gate that the prompt opens; combine and revoke freely"
    needs = frozenset({"denoiser", "text"})
    kinds = frozenset({"object", "style", "person", "explicit"})
    produces = frozenset({"addon"})
    Options = SPMOptions
    recomputes = True
    contract_options: ClassVar[dict[str, Any]] = {
        **TrainedMethod.contract_options, "anchors": 1, "gate_words": 40, "gate_low": -1.0,
    }  # fmt: skip

    def settle(self, options: SPMOptions, request: EraseRequest, info: TargetInfo) -> SPMOptions:
        check_templates(options.templates)
        check_becomes(request)
        if not options.gate_low < options.gate_high:
            raise RequestError(f"gate_low={options.gate_low:g} must be below gate_high={options.gate_high:g}")
        return replace(options, harvest=min(options.harvest, options.steps))

    def modules(self, info: TargetInfo, options: SPMOptions) -> list[ModuleRef]:
        return [ref for ref in info.modules(GROUPS[options.modules]) if ref.kind in ("linear", "conv")]

    def steps(self, request: EraseRequest, options: SPMOptions) -> int:
        return round(options.iterations * len(request.concepts) ** options.growth)

    def trajectories(self, request: EraseRequest, options: SPMOptions) -> int:
        return len(request.concepts) * options.trajectories

    def cost(self, request: EraseRequest, options: SPMOptions) -> Cost:
        cost, asked = super().cost(request, options), self.steps(request, options) * options.anchors
        return replace(cost, forwards=cost.forwards + asked, batch=cost.batch + options.anchors)

    def values(self, refs: Sequence[ModuleRef], request: EraseRequest, options: SPMOptions) -> int:
        return super().values(refs, request, options) * len(request.concepts)

    def warnings(self, request: EraseRequest, info: TargetInfo, options: SPMOptions) -> Sequence[str]:
        return ()  # the steps grow with the concepts

    def notes(self, request: EraseRequest, options: SPMOptions) -> Sequence[str]:
        return ("strength depends on the prompt; LoRA files hold the memories with their gates fixed at 1",)

    def made(self, options: SPMOptions) -> tuple[str, ...]:
        return (STAND_IN,)

    def trainable(self, run: TrainingRun) -> Memories:
        from erase_plugins.training.concept_loras import Memories

        many = len(run.request.concepts)
        return Memories(run.target, run.refs, run.options.rank, many, run.ctx.generator("memories"),
                        run.options.start)  # fmt: skip

    def prepare(self, run: TrainingRun) -> SimpleNamespace:
        from erase_plugins.engine.gating import make_gate

        options, concepts = run.options, run.request.concepts
        phrases = [[concept.text, *concept.prompts] for concept in concepts]
        names = [concept.text for concept in concepts]
        gate = make_gate(run.target, names, phrases, concepts, options.gates(), run.ctx)
        prompts = ErasePrompts.of(run.request, options.templates, options.trajectories)
        watch = {"neutral": prompts.neutral} if any(prompts.neutral) else None
        pool = run.pool("erase", prompts.erased, watch)
        return SimpleNamespace(gate=gate, owners=prompts.owners, pool=pool)

    def edit(self, run: TrainingRun) -> Edit:
        return run.adapters.gated(run.state.gate)

    def loss(self, run: TrainingRun, step: int) -> Tensor:
        from erase_plugins.engine.pools import Part

        options, owners, many = run.options, run.state.owners, len(run.request.concepts)
        states, cond = run.state.pool.batch(options.batch, step)
        seen = states.predictions
        mine = [owners[row] for row in states.row.tolist()]
        wanted = seen.get("neutral", seen["null"]) - options.eta * (seen["prompt"] - seen["null"])
        parts = [Part(states, cond, wanted, 1.0)]
        numbers: list[Sequence[int]] = [mine]
        if options.anchors:
            place = slice(0, 1)
            parts.append(anchor_part(run, states, cond, step))
            numbers.append(mine[place] * options.anchors)
        for held in run.retain(step):
            parts.append(held)
            numbers.append([(step + place) % many for place in range(len(held.states))])
        with run.adapters.recalled(*numbers):
            return run.mean_squares(parts)


def anchor_part(run: TrainingRun, states: Any, cond: Conditioning, step: int) -> Part:
    """Teacher predictions for random embeddings at the first state of the batch, to be held."""
    import torch

    from erase_plugins.engine.pools import Part
    from erase_plugins.engine.trajectories import repeat

    options = run.options
    draw = run.ctx.generator(f"anchors {step}")
    rows, pooled = pseudo_embeddings(cond.embeds[0], options.anchors, draw), None
    if cond.pooled is not None:  # else the anchors would tell the denoiser of the concept
        pooled = pseudo_embeddings(cond.pooled[:1], options.anchors, draw)[:, 0]
    held = replace(repeat(cond[:1], options.anchors), embeds=rows, pooled=pooled)
    first = states[torch.zeros(options.anchors, dtype=torch.long)]
    return Part(first, held, run.rollout.teacher(first, held), options.anchor_weight)


@hookimpl
def erase_methods() -> list[SPM]:
    return [SPM()]
