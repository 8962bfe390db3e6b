"""RealEra: erasing a concept together with its neighbourhood (Liu et al., 2024, arXiv 2410.09140). A reconstruction.

There is no official code, and this file follows the description of the method, not its numbers. Two stages:

    closed form: rows of the concept and of random neighbours go to the guide's, points outside the shell stay;
    LoRA:        L = |eps(x, e) - y|^2 + mean_i |eps(x, e_i) - y|^2 + mean_j |eps(x, u_j) - eps*(x, u_j)|^2

with e the concept's embedding, e_i = neighbours drawn from a shell around it in every step, u_j = points outside it
(beyond-concept regularisation), and y the frozen model's prediction for the guide (``towards=anchor``) or its negative
guidance (``towards=guidance``).

Differs from the description and from the public re-implementation of its sampler (CRCE's baseline):
    - neighbours are drawn directly instead of by rejection, which never ends where the bounds do not fit the encoder;
    - bounds are relative to the embedding's norm, and the start row, equal for all prompts, is not perturbed;
    - neighbours are also mined from the vocabulary: words that mean the same (``aliases=false`` leaves random ones);
    - terms are means, so their weights do not depend on how many points are drawn; all of them in every step
      (``terms=alternate`` takes the concept in odd steps, the rest in even ones);
    - states are harvested from the frozen model once instead of rolled out by the student for every step;
    - words of the vocabulary are kept in both stages, since random points say little about real prompts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from erase_plugins.engine.closed_form_options import ClosedFormOptions
from erase_plugins.engine.erasing import resolved
from erase_plugins.engine.training_options import TrainingOptions, check_templates, revive, spread
from erase_plugins.errors import RequestError
from erase_plugins.hookspecs import hookimpl
from erase_plugins.options import option
from erase_plugins.types import EditPlan, EraseRequest

if TYPE_CHECKING:
    from torch import Tensor

    from erase_plugins.artifacts.edit import Edit
    from erase_plugins.artifacts.statistics import Statistics
    from erase_plugins.engine.context import RunContext
    from erase_plugins.engine.pools import Pool, Rollout
    from erase_plugins.engine.shell import Shell
    from erase_plugins.families.base import Target, TargetInfo
    from erase_plugins.families.target import FamilyTraits

#: train set -> module group
GROUPS = {"x-strict": "cross_kv", "x": "cross_attn", "attn": "attn"}


@dataclass(frozen=True)
class RealEraOptions(TrainingOptions, ClosedFormOptions):
    """Options of RealEra."""

    presets = "../presets/realera.toml"

    stages: str = option("both", "both, or only the closed form (seconds)", choices=("both", "closed"))
    erase_scale: float = option(1.0, "weight of an erased row", low=1e-9)
    aliases: bool = option(True, "also take words that mean the same as neighbours")
    similar_low: float = option(0.5, "smallest cosine of a neighbour to the concept", low=-0.13, high=0.999)
    similar_high: float = option(0.9, "largest cosine of a neighbour to the concept", low=-0.12, high=0.9999)
    distance: float | None = option(None, "largest distance of a neighbour, in norms of the embedding", low=0.0)
    norm: str = option("lerp", "norm of neighbours: lerp shrinks them, preserve keeps it", choices=("lerp", "preserve"))
    closed_neighbours: int = option(5, "random neighbours per phrase in the closed form", low=0, high=1000)
    closed_outside: int = option(3, "points outside the shell held in the closed form", low=0, high=1000)
    neighbours: int = option(5, "random neighbours per state in training", low=0, high=100)
    outside: int = option(3, "points outside the shell per state in training", low=0, high=100)
    neighbour_weight: float = option(1.0, "weight of the neighbours' term", low=0.0)
    outside_weight: float = option(1.0, "weight of the term for points outside", low=0.0)
    towards: str = option("anchor", "what is predicted for the concept: the guide's prediction, or negative guidance",
                          choices=("anchor", "guidance"))  # fmt: skip
    eta: float = option(1.0, "towards=guidance: strength of the negative guidance", low=0.0, high=100.0)
    terms: str = option("joint", "all terms in every step, or in turn", choices=("joint", "alternate"))
    train: str = option("x-strict", "modules of the LoRA: keys and values, all of cross-attention, all attention",
                        choices=tuple(GROUPS))  # fmt: skip
    rank: int = option(4, "LoRA rank; alpha equals rank", low=1, high=1024)
    iterations: int = option(200, "training steps", low=1)
    keep_words: int = option(32, "vocabulary words to hold in training, half of them the closest", low=0, high=10_000)
    gated: bool = option(False, "act only on prompts that mean the concept; LoRA files cannot carry the gate")
    templates: tuple[str, ...] = option(
        ("{}", "a {}", "a {} picture"), "prompts trained on; {} is the concept",
    )  # fmt: skip

    @property
    def shell(self) -> Shell:
        """Where neighbours lie."""
        from erase_plugins.engine.shell import Shell

        return Shell(self.similar_low, self.similar_high, self.distance, self.norm)


class RealEra:
    """Closed form and LoRA over a concept and its neighbourhood."""

    id = "realera"
    title = "RealEra (reconstruction)"
    paper = "https://arxiv.org/abs/2410.09140"
    summary = "closed form plus LoRA over the concept and random neighbours of its embedding; the rest is held"
    families = frozenset({"sd1", "sdxl"})
    kinds = frozenset({"object", "style", "person", "explicit"})
    produces = frozenset({"contextmap", "lowrank", "addon"})
    needs = frozenset({"diffusers"})
    Options = RealEraOptions
    work_files: ClassVar[tuple[str, ...]] = ("states-*.safetensors",)
    contract_options: ClassVar[dict[str, Any]] = {
        "vocabulary": 60, "iterations": 3, "trajectories": 2, "harvest": 2, "steps": 4, "keep_words": 2,
        "keep_batch": 1, "batch": 1, "checkpoint_every": 1, "templates": ("{}",),
    }  # fmt: skip

    def plan(self, request: EraseRequest, info: TargetInfo) -> EditPlan:
        from erase_plugins.engine import training_plan as cost
        from erase_plugins.engine.estimate import closed_form_plan

        options: RealEraOptions = resolved(RealEraOptions, request, info)
        options = options.settled(request)
        check_templates(options.templates)
        options.shell  # noqa: B018 - refuses an empty shell
        if options.terms == "alternate" and not options.neighbours + options.outside:
            raise RequestError("terms=alternate needs neighbours or outside points for every second step")
        if options.gated and len(request.concepts) > 1:
            raise RequestError("gated=true takes one concept; erase each by itself and merge the artifacts")
        plan = closed_form_plan(request, options, info)
        if options.stages == "closed":
            return plan
        cost.check_trainable(self.id, info)
        refs = info.modules(GROUPS[options.train])
        phrases = sum(1 + len(concept.prompts) for concept in request.concepts)
        rolled = max(options.trajectories, phrases * len(options.templates)) + options.kept(request)
        batch = options.batch * (1 + options.neighbours + options.outside) + options.keep_batch
        plan = replace(plan, notes=(*plan.notes, "a reconstruction of RealEra; the paper's code is not public"))
        return cost.with_training(
            plan, options, info, refs, batch=batch, states=rolled * options.harvest,
            forwards=2.0 * options.steps * rolled + options.iterations * options.batch * options.outside,
        )  # fmt: skip

    def run(self, plan: EditPlan, target: Target, ctx: RunContext) -> Edit:
        from erase_plugins.engine.adapters import Adapters
        from erase_plugins.engine.collect import collect, summary
        from erase_plugins.engine.loop import train
        from erase_plugins.engine.mapping import stacked
        from erase_plugins.engine.mining import with_neighbours
        from erase_plugins.engine.run import plan_key

        options, key = revive(RealEraOptions, plan.options), plan_key(plan)
        solver = {"method": self.id, "lam": options.lam}
        recipe = options.recipe()
        statistics = collect(plan.request, recipe, solver, target, ctx, need_sigma=False)
        summary(statistics, ctx)
        near, far = options.closed_neighbours, options.closed_outside
        statistics = with_neighbours(statistics, options.shell, recipe, target, ctx.generator, near, far)
        closed = self.solve(statistics, target.family)
        if options.stages == "closed":
            return self._behind_gate(closed, statistics, target, ctx) if options.gated else closed
        refs = target.modules(GROUPS[options.train])
        adapters = Adapters(target, refs, options.lora_rank, generator=ctx.generator("adapters"))

        def edit() -> Edit:
            both = stacked(closed, adapters.edit(), [ref.weight for ref in target.modules("cross_kv")])
            return self._behind_gate(both, statistics, target, ctx) if options.gated else both

        ctx.precision = options.precision
        ctx.start(options.iterations)
        with adapters:
            rollout = options.rollout_on(target, adapters, ctx)
            loss = self._loss(plan.request, options, statistics, closed, rollout, key)
            train(ctx, adapters, loss, options.schedule(), key, edit_of=edit)
        return edit()

    def _behind_gate(self, edit: Edit, statistics: Statistics, target: Target, ctx: RunContext) -> Edit:
        """The edit as low-rank changes that open with the prompt; statistics would not give the gate again."""
        from erase_plugins.artifacts.edit import Delta, Edit, LowRank
        from erase_plugins.artifacts.gated import GATE, gated_lowrank
        from erase_plugins.artifacts.store import lower_for
        from erase_plugins.engine.gating import GateRecipe, make_gate

        ((name, member),) = statistics.members.items()
        phrases = [*member.facts["phrases"], *member.facts["aliases"]]
        changes: dict[str, dict[str, Delta]] = {}
        for component, key, delta in lower_for(edit, target).items():
            assert isinstance(delta, LowRank)
            path = key.removesuffix(".weight")
            changes.setdefault(component, {})[path] = gated_lowrank(delta, [0] * delta.rank)
        for group in changes.values():
            group[GATE] = make_gate(target, [name], [phrases], GateRecipe("probe", 1000, 0.9, 0.3, 0.6), ctx)
        return Edit(edit.family, changes)

    def solve(self, statistics: Statistics, family: FamilyTraits) -> Edit:
        """The closed form of given statistics; the joint solution of all members."""
        from erase_plugins.engine.solving import joint_edit

        return joint_edit(statistics, family)

    def _loss(
        self, request: EraseRequest, options: RealEraOptions, statistics: Statistics, closed: Edit, rollout: Rollout,
        key: str,
    ) -> Callable[[int], Tensor]:  # fmt: skip
        """The loss of a training step; the student sees prompts through the closed form's map."""
        from erase_plugins.artifacts.edit import CONTEXT
        from erase_plugins.artifacts.solved import DENOISER
        from erase_plugins.engine.mapping import mapped
        from erase_plugins.engine.pools import Part, mean_squares

        change: Any = closed.deltas[DENOISER][CONTEXT]
        pool, phrases = self._pool(options, statistics, rollout, key)
        holding = options.holding(rollout, request, phrases, options.templates, key)
        joint = options.terms == "joint"

        def loss(step: int) -> Tensor:
            states, cond = pool.batch(options.batch, step)
            wanted = self._wanted(states.predictions, options)
            parts = [Part(states, mapped(cond, change), wanted, 1.0)] if joint or step % 2 == 0 else []
            if joint or step % 2 == 1:
                draw = rollout.ctx.generator(f"shell {step}")
                for _ in range(options.neighbours):
                    near, weight = options.shell.near(cond, draw), options.neighbour_weight / options.neighbours
                    parts.append(Part(states, mapped(near, change), wanted, weight))
                for far in [options.shell.far(cond, draw) for _ in range(options.outside)]:
                    before = rollout.teacher(states, far)
                    parts.append(Part(states, mapped(far, change), before, options.outside_weight / options.outside))
            if holding is not None:
                states, cond = holding.batch(options.keep_batch, step)
                parts.append(Part(states, mapped(cond, change), states.predictions["prompt"], options.keep_weight))
            return mean_squares(rollout.target, parts, rollout.ctx)

        return loss

    def _wanted(self, seen: Any, options: RealEraOptions) -> Tensor:
        if options.towards == "anchor":
            return seen["anchor"]
        return seen["null"] - options.eta * (seen["prompt"] - seen["null"])

    def _pool(
        self, options: RealEraOptions, statistics: Statistics, rollout: Rollout, key: str
    ) -> tuple[Pool, list[str]]:
        """Teacher states of the concepts and of the words mined for them; and the concepts' phrases."""
        guides: dict[str, str] = {}
        phrases, mined = [], []
        for member in statistics.members.values():
            own, others = member.facts["phrases"], member.facts["aliases"]
            phrases += own
            mined += others
            guides |= dict.fromkeys([*own, *others], member.facts["guide"])
        rows = spread(phrases, mined, options.templates, options.trajectories)
        anchors = [template.format(guides[name]) if guides[name].strip() else guides[name] for template, name in rows]
        watch = {"anchor": anchors} if options.towards == "anchor" else {}
        return rollout.pool("erase", [template.format(name) for template, name in rows], key, watch), phrases


@hookimpl
def erase_methods() -> list[RealEra]:
    return [RealEra()]
