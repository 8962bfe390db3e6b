"""UCE: unified concept editing in closed form (Gandikota et al., WACV 2024, arXiv 2308.14761).

One regularised least-squares solve maps the text embedding rows of a concept to those of a guide phrase, in the keys
and values of every cross-attention layer at once. The edit is one context map for all layers, exact and low-rank.

Differs from the official code:
    - solved once in float64 for all layers, not once per layer in float32 (same result);
    - "debias" starts every round from the original targets instead of adding to the previous ones;
    - by default the words of the text encoder's own vocabulary are kept with a small weight, except those that mean
      the same as the concept; ``vocabulary=0`` is the official behaviour;
    - the empty prompt is always kept with ``keep_empty``, 1 as in the 2023 code where it alone is kept; that code
      lowers it to one over the number of kept prompts, which would keep artifacts from being added up;
    - from 100 concepts on, in prompts of 77 rows the first 6 rows behind each concept count for all that follow
      (``window_tail=0`` takes all).

On SDXL the map changes token rows only, as in the official code: the pooled row, which adds to the time embedding,
goes on naming the concept. With random weights at SDXL's widths (``python -m benchmarks.pooled --layers 1,1,1``), where
attention averages rows and says little, 97 % of a prediction's change from concept to guide is left by that way; on
real weights it was not measured. Methods that train the denoiser see both.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from erase_plugins.engine.closed_form_options import FramedOptions
from erase_plugins.errors import RequestError
from erase_plugins.hints import Setting
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
@inproceedings{gandikota2024unified,
  title = {Unified Concept Editing in Diffusion Models},
  author = {Gandikota, Rohit and Orgad, Hadas and Belinkov, Yonatan and Materzynska, Joanna and Bau, David},
  booktitle = {IEEE/CVF Winter Conference on Applications of Computer Vision},
  year = {2024}
}"""


#: from more concepts on, and in prompts of more rows, so many rows stand for all behind a concept: one map has fewer
#: directions than those rows by far, and encoding them is nearly all of the work
_MANY, _LONG, _TAIL = 100, 32, 6


@dataclass(frozen=True)
class UCEOptions(FramedOptions):
    """Options of UCE."""

    mode: str = option("erase", "erase: to the guide; moderate: to the empty prompt; debias: balance attributes",
                       choices=("erase", "moderate", "debias"))  # fmt: skip
    technique: str = option("replace", "target: the guide's values, or those less the old direction (2023 code)",
                            choices=("replace", "tensor"))  # fmt: skip
    window_tail: int | None = option(
        None, "rows behind a concept's last token that count for all (tokens=window); 0: all; none: all, or 6 of 77 "
        "where 100 concepts or more are erased", low=0, high=75,
    )  # fmt: skip
    keep_empty: float | None = option(
        None, "weight of a row of the empty prompt, always kept; none: 1 in prompts of 77 rows, else keep_scale",
        low=0.0,
    )  # fmt: skip
    rank: int | None = option(None, "cap on the rank, optimal for all layers at once; none is exact", low=1)
    attributes: tuple[str, ...] = option((), "debias: attributes to balance, comma separated")
    alpha: float = option(0.5, "debias: start weight of an attribute's direction", low=0.0, high=10.0)
    rounds: int = option(6, "debias: measuring rounds where a judge knows the attributes", low=0, high=100)

    def recipe(self) -> Recipe:
        return replace(super().recipe(), tail=self.window_tail or 0, empty=self.keep_empty)

    def settled(self, request: EraseRequest, info: TargetInfo) -> UCEOptions:
        """The options with what follows from the model and the number of concepts."""
        long = info.tokens > _LONG
        tail = _TAIL if len(request.concepts) >= _MANY and long else 0
        return replace(
            self,
            window_tail=tail if self.window_tail is None else self.window_tail,
            keep_empty=(1.0 if long else self.keep_scale) if self.keep_empty is None else self.keep_empty,
        )


class UCE:
    """Closed-form eraser; seconds on a CPU, hundreds of concepts at once."""

    id = "uce"
    title = "Unified Concept Editing"
    paper = "https://arxiv.org/abs/2308.14761"
    citation = _CITATION
    summary = "closed form on cross-attention keys and values; one shared map, exact low rank"
    needs = frozenset({"denoiser", "text", "embedding_map"})
    kinds = frozenset({"object", "style", "person", "explicit"})
    produces = frozenset({"contextmap", "lowrank"})
    Options = UCEOptions
    contract_options: ClassVar[dict[str, int]] = {"vocabulary": 60}

    def plan(self, request: EraseRequest, info: TargetInfo) -> EditPlan:
        from erase_plugins.engine.estimate import closed_form_plan

        options = resolve(UCEOptions, request.options, info.profiles).settled(request, info)
        if options.mode == "debias" and len(options.attributes) < 2:
            raise RequestError("debias needs at least two attributes: ", Setting("attributes", "first,second"))
        if options.technique == "tensor" and options.mode != "erase":
            raise RequestError(f"technique=tensor goes with mode=erase, not with mode={options.mode}")
        request = _as_moderation(request) if options.mode == "moderate" else request
        plan = closed_form_plan(request, options, info)
        return replace(plan, produces=("lowrank",)) if options.technique == "tensor" else plan

    def is_light(self, plan: EditPlan) -> bool:
        """Nothing is drawn, except to measure the shares of attributes."""
        return plan.options["mode"] != "debias"

    def run(self, plan: EditPlan, target: Target, ctx: RunContext) -> Edit:
        from erase_plugins.engine.collect import collect, summary
        from erase_plugins.engine.solve import tell_kept

        options = UCEOptions(**plan.options)
        solver = {"method": self.id, "lam": options.lam, "rank": options.rank}
        if options.keep_empty not in (None, options.keep_scale):  # differs: no joint solution
            solver["empty"] = options.keep_empty
        need_sigma = options.rank is not None
        statistics = collect(plan.request, options.recipe(), solver, target, ctx, need_sigma)
        summary(statistics, ctx)
        if options.mode == "debias":
            from erase_plugins.methods.uce.debias import balance

            statistics = balance(statistics, options, target, ctx, lambda current: self.solve(current, target.family))
        if options.technique == "tensor":
            from erase_plugins.methods.uce.tensor_targets import tensor_edit

            return tensor_edit(statistics, options.lam, target)
        edit = self.solve(statistics, target.family)
        tell_kept(edit, statistics, ctx)
        return edit

    def solve(self, statistics: Statistics, family: FamilyTraits) -> Edit:
        """The edit of given statistics; the joint solution of all members."""
        from erase_plugins.engine.solve import joint_edit

        return joint_edit(statistics, family)


def _as_moderation(request: EraseRequest) -> EraseRequest:
    """Every concept becomes the empty prompt, unless the user said otherwise."""
    concepts = tuple(
        concept if concept.anchor is not None else replace(concept, anchor="") for concept in request.concepts
    )
    return replace(request, forget=concepts)


@hookimpl
def erase_methods() -> list[UCE]:
    return [UCE()]
