"""OCE: orthogonal concept erasure (ICML 2026, arXiv 2605.28902).

Every value projection W of cross-attention becomes P W with P the rotation nearest to

    M = -s G (I - G*) + p W K W^T + q sum v v^T + l W W^T

(the polar factor, orthogonal Procrustes). G and G* project on the values of the concepts and of what they become, K
is the second moment of retained text rows, v are the values of what is named to be kept. P turns the erased values
round and leaves the length of every value and the angles between them as they are. P W - W has a rank of about the
number of concepts, so the edit is a LoRA.

Differs from the official code (``HansSunY/OCE``; own code, it has no licence):
    - K is the second moment that `uce` keeps, of common words of the text encoder's vocabulary instead of captions of
      MS-COCO, less the words that mean the same as a concept;
    - where P would be a reflection, the weakest singular direction is turned back (Kabsch), not the last column;
    - float64, and dependent rows of a concept count once;
    - the change is kept at the rank that holds ``energy`` of it; what is cut is told;
    - ``rows=end`` (on pocket) lets the mean of the end and padding rows stand for a phrase, which there carry it;
    - ``gated=true`` (on pocket) solves every concept alone and puts its change behind a gate, as in `null-space`: what
      is retained need not hold against the concept, so a weight that erases leaves other prompts as they are.

On the embedded model one rotation either leaves the concept or turns everything: there a few directions carry every
prompt.

The solution needs the base's weights, so artifacts without gates are merged by adding them up, not by solving again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from erase_plugins.engine.closed_form_options import MemoryOptions
from erase_plugins.errors import RequestError
from erase_plugins.hints import KEEP, Sentence
from erase_plugins.hookspecs import hookimpl
from erase_plugins.options import option, resolve
from erase_plugins.types import Concept, EditPlan, EraseRequest

if TYPE_CHECKING:
    from torch import Tensor

    from erase_plugins.artifacts.edit import Edit, LowRank
    from erase_plugins.artifacts.statistics import Statistics
    from erase_plugins.engine.context import RunContext
    from erase_plugins.families.base import Conditioning, Target, TargetInfo

#: part of a unit vector outside the others below which it is no direction of its own
_DEPENDENT = 1e-6


@dataclass(frozen=True)
class OCEOptions(MemoryOptions):
    """Options of OCE."""

    presets = "../presets/oce.toml"

    tokens: str = option("last", "rows that stand for a phrase: its last token, from there to the end, or all",
                         choices=("last",))  # fmt: skip
    rows: str = option("last", "what stands for a phrase: its last token, or the mean of the rows behind it",
                       choices=("last", "end"))  # fmt: skip
    erase: float = option(1000.0, "how strongly the concepts' values are turned away", low=0.0)
    keep_all: float = option(50.0, "weight of the retained second moment", low=0.0)
    keep_named: float = option(1.0, Sentence("weight of a row named ", KEEP), low=0.0)
    lam: float = option(10.0, "weight of the projection's own directions", low=0.0)
    energy: float = option(0.9999, "share of the change's energy that the LoRA holds", low=0.5, high=1.0)


class OCE:
    """Rotates the values of concepts away; lengths and angles of all values stay."""

    id = "oce"
    title = "Orthogonal Concept Erasure"
    paper = "https://arxiv.org/abs/2605.28902"
    summary = "rotates the values of cross-attention in closed form; lengths and angles stay"
    needs = frozenset({"denoiser", "text", "embedding_map", "cross_attention"})
    kinds = frozenset({"object", "style", "person", "explicit"})
    produces = frozenset({"lowrank", "addon"})
    Options = OCEOptions
    contract_options: ClassVar[dict[str, int]] = {"vocabulary": 60}

    def plan(self, request: EraseRequest, info: TargetInfo) -> EditPlan:
        from erase_plugins.engine import rates
        from erase_plugins.engine.erasing import names_of_all
        from erase_plugins.engine.estimate import closed_form_plan, gated_plan, settle_gates

        options = resolve(OCEOptions, request.options, names_of_all(request, info))
        if not (options.lam or options.keep_all):
            raise RequestError("lam and keep_all are both 0: nothing would tell the rotation what to leave; raise one")
        refs = info.modules("cross_v")
        options, said = settle_gates(request, options, info)
        plan = closed_form_plan(request, options, info)
        if options.gated:
            plan = gated_plan(plan, options, info, refs, said)
        solved = len(request.concepts) if options.gated else 1
        # singular values of M, and of the change
        turned = solved * sum(2 * 10.0 * ref.shape[0] ** 3 for ref in refs) / rates.solving()
        warnings = tuple(text for text in plan.warnings if not text.startswith("tokens=last"))
        return replace(
            plan, modules=tuple(f"{ref.component}.{ref.path}" for ref in refs),
            seconds=round((plan.seconds or 0.0) + turned, 3), warnings=warnings,
            produces=plan.produces if options.gated else ("lowrank",),
        )  # fmt: skip

    def run(self, plan: EditPlan, target: Target, ctx: RunContext) -> Edit:
        from erase_plugins.artifacts.edit import Edit
        from erase_plugins.engine.collect import collect, summary
        from erase_plugins.engine.memories import gated_edit

        options, concepts, named = OCEOptions(**plan.options), plan.request.concepts, plan.request.preserve
        statistics = collect(plan.request, options.recipe(), {}, target, ctx, need_sigma=False)
        statistics = replace(statistics, keep={"": statistics.keep[""]})
        summary(statistics, ctx)
        refs = target.modules("cross_v")
        if options.gated:

            def memory(concept: Concept, own: Statistics) -> tuple[list[LowRank], float]:
                found = list(turned(own, [concept], named, options, target))
                return [change for change, _ in found], max(error for _, error in found) ** 2

            return gated_edit(statistics, concepts, memory, refs, options.gates(), target, ctx)
        group, worst = {}, 0.0
        for number, (change, error) in enumerate(turned(statistics, concepts, named, options, target), 1):
            group[refs[number - 1].weight] = change
            worst = max(worst, error)
            ctx.step(number, len(refs), rank=change.rank)
        return Edit(target.family.id, {target.family.denoiser: group}, meta={"truncation_error": worst})


def turned(
    statistics: Statistics, concepts: Sequence[Concept], named: Sequence[str], options: OCEOptions, target: Target
) -> Iterator[tuple[LowRank, float]]:
    """The change of each value projection and its relative error.

    Args:
        statistics: of ``concepts`` and of nothing else.
        concepts: what is turned away, with one rotation for all.
        named: prompts to keep.
        options: weights, rows and ranks.
        target: its projections are turned.
    """
    import torch

    from erase_plugins.artifacts.ledger import from_ledger
    from erase_plugins.engine.collect import framed, guide_of

    recipe = options.recipe()
    erased: list[str] = []
    becomes: list[str] = []
    for concept in concepts:
        aliases = statistics.members[concept.text].facts["aliases"]
        for phrase in (concept.text, *concept.prompts, *aliases):
            erased += framed(phrase, concept.kind, recipe)
        becomes += framed(guide_of(concept, recipe.fillers), concept.kind, recipe)
    C, S = (phrase_rows(target.encode(list(dict.fromkeys(part))), options.rows) for part in (erased, becomes))
    kept = phrase_rows(target.encode(list(named)), options.rows) if named else C[:0]
    block = statistics.kept_ledger if statistics.block is not None else statistics.kept_ledger * 0
    K = from_ledger(block)
    K = K / (options.vocabulary_scale * (target.info.tokens - 1)) if options.vocabulary_scale else K * 0
    scales = (options.erase, options.keep_all, options.keep_named, options.lam)
    for ref in target.modules("cross_v"):
        W = target.weight(ref).cpu().double()
        P = rotation(W, C, S, K, kept, scales)
        change = (P - torch.eye(len(P), dtype=P.dtype)) @ W
        yield low_rank(change, options.energy, options.memory if options.gated else len(P))


def rotation(W: Tensor, C: Tensor, S: Tensor, K: Tensor, kept: Tensor, scales: tuple[float, ...]) -> Tensor:
    """P (out, out), the rotation nearest to M.

    Args:
        W: (out, d) value projection.
        C, S: (n, d) and (m, d) rows of the concepts and of what they become.
        K: (d, d) second moment of retained rows.
        kept: (k, d) rows of what is named.
        scales: s, p, q, l.
    """
    import torch

    s, p, q, weight = scales
    E, guide = span(W @ C.double().T), span(W @ S.double().T)
    values = W @ kept.double().T
    M = p * W @ K.double() @ W.T + q * values @ values.T + weight * W @ W.T
    M = M - s * E @ (E.T - (E.T @ guide) @ guide.T)
    left, _, right = torch.linalg.svd(M)
    signs = torch.ones(len(M), dtype=M.dtype)
    signs[-1] = torch.sign(torch.linalg.det(left) * torch.linalg.det(right))
    return (left * signs) @ right


def span(values: Tensor) -> Tensor:
    """Orthonormal basis (out, r) of the columns of ``values`` (out, n), each of which counts alike."""
    import torch

    lengths = values.norm(dim=0)
    unit = values[:, lengths > 0] / lengths[lengths > 0]
    left, sizes, _ = torch.linalg.svd(unit, full_matrices=False)
    return left[:, sizes > _DEPENDENT]


def low_rank(change: Tensor, energy: float, most: int | None = None) -> tuple[LowRank, float]:
    """The fewest directions, ``most`` at most, that hold ``energy`` of a change (out, d), and the relative error."""
    import torch

    from erase_plugins.artifacts.edit import LowRank

    left, sizes, right = torch.linalg.svd(change, full_matrices=False)
    power = sizes**2
    total = float(power.sum())
    if not total:
        return LowRank(right[:1].float().contiguous(), (left[:, :1] * 0).float().contiguous()), 0.0
    beyond = (total - power.cumsum(0)).clamp_min(0) / total
    rank = min(int((beyond > 1 - energy).sum()) + 1, len(sizes), most or len(sizes))
    root = sizes[:rank].sqrt()
    A, B = root[:, None] * right[:rank], left[:, :rank] * root
    return LowRank(A.float().contiguous(), B.float().contiguous()), float(beyond[rank - 1]) ** 0.5


def phrase_rows(cond: Conditioning, rows: str) -> Tensor:
    """One row (n, d) float64 for every prompt: that of its last token, or the mean of those behind it."""
    import torch

    from erase_plugins.engine.vocabulary import meaning

    if rows == "end":
        return meaning(cond)
    found: list[Any] = [cond.embeds[index, last].cpu().double() for index, last in enumerate(cond.last)]
    return torch.stack(found)


@hookimpl
def erase_methods() -> list[OCE]:
    return [OCE()]
