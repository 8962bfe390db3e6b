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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from erase_plugins.engine.closed_form_options import ClosedFormOptions
from erase_plugins.errors import RequestError
from erase_plugins.hookspecs import hookimpl
from erase_plugins.options import option
from erase_plugins.training import Cost, StagedMethod, TrainingOptions, TrainingRun
from erase_plugins.training.options import spread
from erase_plugins.types import STAND_IN, EraseRequest

if TYPE_CHECKING:
    from torch import Tensor

    from erase_plugins.artifacts.edit import Edit
    from erase_plugins.artifacts.statistics import Statistics
    from erase_plugins.engine.pools import Pool
    from erase_plugins.families.base import ModuleRef, TargetInfo
    from erase_plugins.methods.realera.neighbor_sampling import Shell


#: train set -> module group
GROUPS = {"x-strict": "cross_kv", "x": "cross_attn", "attn": "attn"}


@dataclass(frozen=True)
class RealEraOptions(TrainingOptions, ClosedFormOptions):
    """Options of RealEra."""

    presets = "../../presets/realera.toml"

    stages: str = option("both", "both, or only the closed form (seconds)", choices=("both", "closed"),
                         searched=("both", "closed"))  # fmt: skip
    erase_scale: float = option(1.0, "weight of an erased row", low=1e-9, searched=(0.2, 5.0))
    aliases: bool = option(True, "also take words that mean the same as neighbours", searched=(True, False))
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
    templates: tuple[str, ...] = option(("{}", "a {}", "a {} picture"), "prompts trained on; {} is the concept")

    @property
    def shell(self) -> Shell:
        """Where neighbours lie."""
        from erase_plugins.methods.realera.neighbor_sampling import Shell

        return Shell(self.similar_low, self.similar_high, self.distance, self.norm)


class RealEra(StagedMethod):
    """Closed form and LoRA over a concept and its neighbourhood."""

    id = "realera"
    title = "RealEra (reconstruction)"
    paper = "https://arxiv.org/abs/2410.09140"
    summary = "closed form plus LoRA over the concept and random neighbours of its embedding; the rest is held"
    kinds = frozenset({"object", "style", "person", "explicit"})
    produces = frozenset({"contextmap", "lowrank", "addon"})
    Options = RealEraOptions
    recomputes = True
    contract_options: ClassVar[dict[str, Any]] = {
        **StagedMethod.contract_options, "vocabulary": 60, "batch": 1, "templates": ("{}",),
    }  # fmt: skip

    def settle(self, options: RealEraOptions, request: EraseRequest, info: TargetInfo) -> Any:
        options.shell  # noqa: B018 - refuses an empty shell
        if options.terms == "alternate" and not options.neighbours + options.outside:
            raise RequestError("terms=alternate needs neighbours or outside points for every second step")
        if options.gated and len(request.concepts) > 1:
            raise RequestError("gated=true takes one concept; erase each by itself and merge the artifacts")
        return super().settle(options, request, info)

    def modules(self, info: TargetInfo, options: RealEraOptions) -> Sequence[ModuleRef]:
        return info.modules(GROUPS[options.train])

    def made(self, options: RealEraOptions) -> tuple[str, ...]:
        return (STAND_IN,) if options.gated else super().made(options)

    def notes(self, request: EraseRequest, options: RealEraOptions) -> Sequence[str]:
        return ("a reconstruction of RealEra; the paper's code is not public",)

    def cost(self, request: EraseRequest, options: RealEraOptions) -> Cost:
        phrases = sum(1 + len(concept.prompts) for concept in request.concepts)
        rolled = max(options.trajectories, phrases * len(options.templates)) + options.kept(request)
        batch = options.batch * (1 + options.neighbours + options.outside) + options.keep_batch
        asked = options.iterations * options.batch * options.outside
        return Cost(2.0 * options.steps * rolled + asked, batch, rolled * options.harvest)

    def solver(self, run: TrainingRun) -> Mapping[str, Any]:
        return {"lam": run.options.lam}

    def collect(self, run: TrainingRun, request: EraseRequest | None = None) -> Statistics:
        from erase_plugins.methods.realera.mining import with_neighbours

        options, statistics = run.options, super().collect(run, request)
        near, far = options.closed_neighbours, options.closed_outside
        recipe, generator = options.recipe(), run.ctx.generator
        return with_neighbours(statistics, options.shell, recipe, run.target, generator, near, far)

    def edit(self, run: TrainingRun) -> Edit:
        edit = super().edit(run)
        return behind_gate(edit, run) if run.options.gated else edit

    def prepare(self, run: TrainingRun) -> Pool:
        """Teacher states of the concepts and of the words mined for them."""
        options = run.options
        guides: dict[str, str] = {}
        mined: list[str] = []
        run.phrases = []
        for member in run.statistics.members.values():
            own, others = member.facts["phrases"], member.facts["aliases"]
            run.phrases += own
            mined += others
            guides |= dict.fromkeys([*own, *others], member.facts["guide"])
        rows = spread(run.phrases, mined, options.templates, options.trajectories)
        anchors = [template.format(guides[name]) if guides[name].strip() else guides[name] for template, name in rows]
        watch = {"anchor": anchors} if options.towards == "anchor" else {}
        return run.pool("erase", [template.format(name) for template, name in rows], watch)

    def loss(self, run: TrainingRun, step: int) -> Tensor:
        """The student sees prompts through the closed form's map."""
        options, joint, seen = run.options, run.options.terms == "joint", run.mapped
        states, cond = run.state.batch(options.batch, step)
        told = states.predictions
        if options.towards == "anchor":
            wanted = told["anchor"]
        else:
            wanted = told["null"] - options.eta * (told["prompt"] - told["null"])
        parts = [(states, seen(cond), wanted, 1.0)] if joint or step % 2 == 0 else []
        if joint or step % 2 == 1:
            draw = run.ctx.generator(f"shell {step}")
            for _ in range(options.neighbours):
                near, weight = options.shell.near(cond, draw), options.neighbour_weight / options.neighbours
                parts.append((states, seen(near), wanted, weight))
            for far in [options.shell.far(cond, draw) for _ in range(options.outside)]:
                before = run.rollout.teacher(states, far)
                parts.append((states, seen(far), before, options.outside_weight / options.outside))
        return run.mean_squares([*parts, *run.retain(step, seen)])


def behind_gate(edit: Edit, run: TrainingRun) -> Edit:
    """The edit as low-rank changes that open with the prompt; statistics would not give the gate again."""
    from erase_plugins.artifacts.edit import Delta, Edit, LowRank
    from erase_plugins.artifacts.gated import GATE, gated_lowrank
    from erase_plugins.artifacts.store import lower_for
    from erase_plugins.engine.gating import GateRecipe, make_gate

    target = run.target
    ((name, member),) = run.statistics.members.items()
    phrases = [*member.facts["phrases"], *member.facts["aliases"]]
    changes: dict[str, dict[str, Delta]] = {}
    for component, key, delta in lower_for(edit, target).items():
        assert isinstance(delta, LowRank)
        path = key.removesuffix(".weight")
        changes.setdefault(component, {})[path] = gated_lowrank(delta, [0] * delta.rank)
    for group in changes.values():
        group[GATE] = make_gate(
            target, [name], [phrases], run.request.concepts, GateRecipe("probe", 1000, 0.9, 0.3, 0.6), run.ctx
        )
    return Edit(edit.family, changes)


@hookimpl
def erase_methods() -> list[RealEra]:
    return [RealEra()]
