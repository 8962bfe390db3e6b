"""RECE: reliable and efficient concept erasure (Gong et al., ECCV 2024, arXiv 2407.12383).

Starts from UCE, then derives in closed form the embeddings that would still make the edited model draw the concept,
erases those as well, and repeats.

Differs from the official code:
    - one (d x d) recursion in float64 instead of a loop over layers and 77 rows; the adversarial rows are never formed;
    - the number of epochs is fixed by kind, no pictures are drawn in between;
    - every round also holds the original rows where the start left them, and the adversarial rows of n concepts weigh
      1/n^2 (``hold=false`` is the official step): with a kept vocabulary the plain step can turn the first erasure
      back, and the rows of many concepts would disturb what is kept;
    - the kept rows are those of the UCE start: the named prompts, the empty prompt and the vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from erase_plugins.engine.closed_form_options import FramedOptions
from erase_plugins.hookspecs import hookimpl
from erase_plugins.options import option, resolve
from erase_plugins.types import EditPlan, EraseRequest

if TYPE_CHECKING:
    from erase_plugins.artifacts.edit import Edit
    from erase_plugins.artifacts.statistics import Statistics
    from erase_plugins.engine.context import RunContext
    from erase_plugins.families.base import Target, TargetInfo
    from erase_plugins.families.target import FamilyTraits

_CITATION = """\
@inproceedings{gong2024reliable,
  title = {Reliable and Efficient Concept Erasure of Text-to-Image Diffusion Models},
  author = {Gong, Chao and Chen, Kai and Wei, Zhipeng and Chen, Jingjing and Jiang, Yu-Gang},
  booktitle = {European Conference on Computer Vision},
  year = {2024}
}"""


@dataclass(frozen=True)
class RECEOptions(FramedOptions):
    """Options of RECE."""

    presets = "../presets/rece.toml"

    epochs: int = option(1, "adversarial rounds after the UCE start", low=0, high=20, searched=(1, 4))
    regular_scale: float = option(0.1, "regulariser of the adversarial embedding", low=1e-9, searched=(0.003, 1.0))
    adversarial_lam: float = option(0.1, "ridge term of the adversarial erase step", low=1e-9)
    hold: bool = option(True, "adversarial rounds hold the original rows and weigh less the more concepts there are")
    rank: int | None = option(None, "cap on the rank, optimal for all layers at once; none is exact", low=1)


class RECE:
    """UCE hardened against derived embeddings."""

    id = "rece"
    title = "Reliable and Efficient Concept Erasure"
    paper = "https://arxiv.org/abs/2407.12383"
    citation = _CITATION
    summary = "UCE plus closed-form adversarial rounds; stronger on paraphrases"
    needs = frozenset({"denoiser", "text", "embedding_map", "cross_attention"})
    kinds = frozenset({"object", "style", "person", "explicit"})
    produces = frozenset({"contextmap"})
    Options = RECEOptions
    contract_options: ClassVar[dict[str, int]] = {"vocabulary": 60}

    def plan(self, request: EraseRequest, info: TargetInfo) -> EditPlan:
        from erase_plugins.engine.erasing import names_of_all
        from erase_plugins.engine.estimate import closed_form_plan

        return closed_form_plan(request, resolve(RECEOptions, request.options, names_of_all(request, info)), info)

    def run(self, plan: EditPlan, target: Target, ctx: RunContext) -> Edit:
        from erase_plugins.engine.collect import collect, summary
        from erase_plugins.engine.solve import tell_kept

        options = RECEOptions(**plan.options)
        solver = {
            "method": self.id, "lam": options.lam, "rank": options.rank, "epochs": options.epochs,
            "regular_scale": options.regular_scale, "adversarial_lam": options.adversarial_lam,
            "hold": options.hold,
        }  # fmt: skip
        statistics = collect(plan.request, options.recipe(), solver, target, ctx, need_sigma=True)
        summary(statistics, ctx)
        edit = self.solve(statistics, target.family)
        tell_kept(edit, statistics, ctx)
        return edit

    def solve(self, statistics: Statistics, family: FamilyTraits) -> Edit:
        """The edit of given statistics; the joint solution of all members."""
        import torch

        from erase_plugins.artifacts.closed_form import best_factors, rece_step, solve_map
        from erase_plugins.artifacts.solved import context_edit
        from erase_plugins.engine.solve import spread, trimmed_factors

        solver, sigma = statistics.solver, statistics.sigma
        assert sigma is not None
        G, X = statistics.erased_grams()
        count, hold = len(statistics.members), bool(solver["hold"])
        H = statistics.kept_gram(count)
        weight = 1 / count**2 if hold else 1.0
        eye = torch.eye(statistics.width, dtype=torch.float64)
        M = eye + solve_map(G, X, H, solver["lam"])
        for _ in range(solver["epochs"]):
            M = rece_step(M, sigma, G, X, H, solver["regular_scale"], solver["adversarial_lam"], hold, weight)
        if solver["rank"] is None and spread(statistics):
            A, B, error = trimmed_factors(M - eye, statistics)
        else:
            A, B, error = best_factors(M - eye, sigma, solver["rank"])
            error = error if solver["rank"] is not None else 0.0
        return context_edit(A, B, statistics, family, error)


@hookimpl
def erase_methods() -> list[RECE]:
    return [RECE()]
