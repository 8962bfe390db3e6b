"""SPEED: erasure in the null space of what is retained (Li et al., ICLR 2026, arXiv 2503.07392).

UCE's least squares with an infinite weight on what is retained. With U the directions in which retained rows have less
than ``tau`` of their mean energy, C the rows of the concepts, S what they become and N the invariants (the empty
prompt, concepts that were revoked), every edited projection W gets W (S - C) D,

    D = C^T U (U^T (C C^T + n/lam N N^T) U + n rho I)^-1 U^T

which is the published form (its test compares both), at most of rank n. Merging, adding and revoking solve the stored
sums again; a revoked concept joins the invariants, so that nothing moves it any more.

``anchor=safe-span`` is double projection (CVPR 2026, arXiv 2604.10032): a concept becomes what it has in common with
the retained rows, its projection on their leading directions (``safe``).

Differs from the official code (``Ouxiang-Li/SPEED``):
    - one symmetric solve in float64 for all layers instead of two decompositions per layer in float32;
    - the retained rows are common words of the text encoder's vocabulary, less those that mean the same as a concept,
      and what is named with --keep; the official filter by how far a row would move and the noise added to rows need
      single rows of every retained phrase and are left out, ``tau`` alone decides;
    - ``tau`` and ``rho`` are shares of the mean energy of the rows, so they do not depend on the encoder's scale;
    - the invariants are the leading directions of the empty prompt, not random k-means centres;
    - the concept's last token stands for it as published, all rows to the end (``tokens=window``), or those rows in
      prompts (``frames``, on pocket), each paired with the same prompt with the guide, or without the concept;
    - where concepts fill more than half of a map's directions (nine on pocket, 65 on Stable Diffusion 1.5), every one
      is solved alone and its leading directions lie behind a gate (as in SPM), since a map that is overfull leaves
      concepts and disturbs the rest: nothing is shared, prompts that mean no concept do not move, and memories are
      merged, added and revoked as they are. Only what follows gates carries it (``gated`` decides otherwise);
    - ``soft`` lets what is retained count in the free directions too, so that few need be out of bounds (0 is
      published; infinite ``tau`` with ``soft`` is UCE). On pocket 0 leaves 65 % of twenty concepts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from erase_plugins.engine.closed_form_options import MemoryOptions
from erase_plugins.errors import RequestError, Unsupported
from erase_plugins.hints import Hint
from erase_plugins.hookspecs import hookimpl
from erase_plugins.options import option, resolve
from erase_plugins.types import EditPlan, EraseRequest

if TYPE_CHECKING:
    from erase_plugins.artifacts.edit import Edit
    from erase_plugins.artifacts.statistics import Statistics
    from erase_plugins.engine.collect import Recipe
    from erase_plugins.engine.context import RunContext
    from erase_plugins.families.base import Target, TargetInfo
    from erase_plugins.families.target import FamilyTraits

_CITATION = """\
@inproceedings{li2026speed,
  title = {SPEED: Scalable, Precise, and Efficient Concept Erasure for Diffusion Models},
  author = {Li, Ouxiang and Wang, Yuan and Hu, Xinting and Jiang, Houcheng and Liang, Tao and Hao, Yanbin
    and Ma, Guojun and Feng, Fuli},
  booktitle = {International Conference on Learning Representations},
  year = {2026}
}"""


@dataclass(frozen=True)
class NullSpaceOptions(MemoryOptions):
    """Options of SPEED."""

    presets = "../../presets/null-space.toml"

    tokens: str = option("last", "rows that stand for a phrase: its last token, from there to the end, or all",
                         choices=("last", "window", "all"))  # fmt: skip
    expand: bool = option(True, "also edit six phrasings (photo of ..., painting of ...); use with tokens=last")
    lam: float = option(1e-6, "softness of the invariants: 0 holds them exactly", low=0.0)
    rho: float = option(0.05, "ridge term, a share of the mean energy of the erased rows", low=1e-12)
    tau: float = option(0.1, "energy, as a share of the mean, from which a direction of what is retained is untouched",
                        low=0.0)  # fmt: skip
    invariants: int = option(4, "directions of the empty prompt that never move", low=0, high=77)
    projections: str = option("values", "what is edited: values (a LoRA), or keys and values (one map)",
                              choices=("values", "both"))  # fmt: skip
    safe: float = option(1.0, "energy, as a share of the mean, of a safe direction (anchor=safe-span)", low=0.0)
    anchor: str = option("guide", "what a concept becomes: its guide, or what it shares with the retained rows",
                         choices=("guide", "safe-span"))  # fmt: skip
    frames: tuple[str, ...] = option((), "prompts that a concept, {}, stands in; in place of tokens and expand")
    soft: float = option(0.0, "weight of what is retained in the directions below tau, against what is erased", low=0.0)

    @property
    def group(self) -> str:
        """The projections that are edited."""
        return "cross_v" if self.projections == "values" else "cross_kv"

    def recipe(self) -> Recipe:
        """With the prompts that a concept stands in."""
        return replace(super().recipe(), frames=self.frames)


class NullSpace:
    """Closed form that leaves what is retained alone: many concepts at once."""

    id = "null-space"
    title = "SPEED: null-space concept erasure"
    paper = "https://arxiv.org/abs/2503.07392"
    citation = _CITATION
    summary = "closed form inside the null space of what is retained; many concepts at once, exact low rank"
    needs = frozenset({"denoiser", "text", "embedding_map"})
    kinds = frozenset({"object", "style", "person", "explicit"})
    produces = frozenset({"contextmap", "lowrank", "addon"})
    Options = NullSpaceOptions
    #: random rows have no directions that are much weaker than others
    contract_options: ClassVar[dict[str, float]] = {"vocabulary": 60, "tau": 1.0}

    def plan(self, request: EraseRequest, info: TargetInfo) -> EditPlan:
        from erase_plugins.engine.erasing import names_of_all
        from erase_plugins.engine.estimate import closed_form_plan, gated_plan, settle_gates

        options = resolve(NullSpaceOptions, request.options, names_of_all(request, info))
        if options.anchor == "safe-span":
            given = [concept.text for concept in request.concepts if concept.anchor is not None]
            if given:
                raise RequestError(
                    f"'{given[0]}' has a guide, but with anchor=safe-span a concept becomes what it shares with the "
                    "retained words; leave out ",
                    Hint("to"),
                    " or the option",
                )
            if not options.vocabulary:
                raise RequestError("anchor=safe-span needs retained words; leave vocabulary above 0")
        if options.projections == "values" and not info.supports("cross_attention"):
            raise Unsupported(f"{info.model} has no value projections that read text rows; set projections=both")
        options, said = settle_gates(request, options, info)
        plan = closed_form_plan(request, options, info)
        if options.gated:
            plan = gated_plan(plan, options, info, info.modules(options.group), said)
        if options.projections == "both":
            return plan
        modules = tuple(f"{ref.component}.{ref.path}" for ref in info.modules(options.group))
        return replace(plan, modules=modules, produces=plan.produces if options.gated else ("lowrank",))

    def run(self, plan: EditPlan, target: Target, ctx: RunContext) -> Edit:
        from erase_plugins.engine.collect import collect, summary
        from erase_plugins.engine.memories import gated_edit
        from erase_plugins.methods.null_space.solution import memory, on_safe_span, tell, values_of

        options = NullSpaceOptions(**plan.options)
        names = ("lam", "rho", "tau", "invariants", "projections", "anchor", "safe", "soft")
        solver = {"method": self.id, **{name: getattr(options, name) for name in names}}
        if options.projections == "values":
            solver["modules"] = [[ref.weight, ref.shape[0]] for ref in target.modules("cross_v")]
        statistics = collect(plan.request, options.recipe(), solver, target, ctx, need_sigma=False)
        if options.anchor == "safe-span":
            statistics = on_safe_span(statistics)
        if options.gated:
            summary(statistics, ctx)
            refs = target.modules(options.group)
            weights = [target.weight(ref).cpu().double() for ref in refs]
            return gated_edit(
                statistics, plan.request.concepts, lambda _, own: memory(own, weights, options.memory), refs,
                options.gates(), target, ctx,
            )  # fmt: skip
        statistics = values_of(statistics, target)
        summary(statistics, ctx)
        edit = self.solve(statistics, target.family)
        tell(statistics, ctx)
        return edit

    def solve(self, statistics: Statistics, family: FamilyTraits) -> Edit:
        """The edit of given statistics; the joint solution of all members."""
        from erase_plugins.methods.null_space.solution import solved

        return solved(statistics, family)

    def renew(self, statistics: Statistics, target: Target) -> Statistics:
        """The statistics for the weights of another model, or of the same one with LoRAs on it."""
        from erase_plugins.methods.null_space.solution import on_safe_span, values_of

        if statistics.solver["anchor"] == "safe-span":
            statistics = on_safe_span(statistics)
        return values_of(statistics, target)


@hookimpl
def erase_methods() -> list[NullSpace]:
    return [NullSpace()]
