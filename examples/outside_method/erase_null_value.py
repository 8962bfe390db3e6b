"""Null projection of the values: a real eraser in one file.

With D (r, d) the leading directions in which the concept's embeddings differ from those of the empty prompt, and
G (d, d) the second moment of the embeddings of other words, every value projection W becomes W (I - P) with the
oblique projection

    P = D^T (D G^-1 D^T)^-1 D G^-1.

P D^T = D^T, so the concept's values become those of the empty prompt, and of all such projections this one has the
smallest second moment on the other words. The change - (W D^T) ((D G^-1 D^T)^-1 D G^-1) is exactly low-rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import erase_plugins
from erase_plugins.options import as_dict, option, resolve
from erase_plugins.types import EditPlan, EraseRequest

if TYPE_CHECKING:
    from torch import Tensor

    from erase_plugins.artifacts.edit import Edit
    from erase_plugins.engine.context import RunContext
    from erase_plugins.families.base import Target, TargetInfo


@dataclass(frozen=True)
class Options:
    """Options of the null projection."""

    rank: int = option(6, "directions to remove per concept", low=1, high=64)
    words: int = option(300, "words of the vocabulary whose values should move least", low=0, high=20_000)
    ridge: float = option(1e-2, "regulariser of their second moment, relative to its mean", low=1e-6, high=10.0)
    keep_weight: float = option(3.0, "weight of a prompt that is kept, in words", low=0.0, high=1000.0)


class NullValue:
    """Removes a concept's directions from the values, in closed form."""

    id = "null-value"
    title = "Null projection of the values"
    paper = "closed form, derived in the module's documentation"
    summary = "oblique projection on cross-attention values; keys, and so the layout, stay"
    needs = frozenset({"denoiser", "text"})
    kinds = frozenset({"object", "style"})
    produces = frozenset({"lowrank"})
    Options = Options
    contract_options: ClassVar[dict[str, int]] = {"words": 40}

    def plan(self, request: EraseRequest, info: TargetInfo) -> EditPlan:
        options = resolve(Options, request.options, info.profiles)
        refs = info.modules("cross_v")
        rank = min(options.rank * len(request.concepts), info.width)
        return EditPlan(
            request=request,
            options=as_dict(options),
            modules=tuple(f"{ref.component}.{ref.path}" for ref in refs),
            steps=len(request.concepts),
            memory_bytes=8 * info.width * (2 * info.width + info.tokens * (options.words + 2)),
            file_bytes=4 * rank * sum(ref.shape[0] + ref.shape[1] for ref in refs),
            notes=tuple(f"{concept.text} -> the empty prompt, in the values only" for concept in request.concepts),
        )

    def run(self, plan: EditPlan, target: Target, ctx: RunContext) -> Edit:
        import torch

        from erase_plugins.artifacts.edit import Edit, LowRank

        options, concepts = Options(**plan.options), plan.request.concepts
        phrases = [(concept.text, *concept.prompts) for concept in concepts]
        taken = {word for group in phrases for text in group for word in text.lower().split()}
        others = [word for word in target.vocabulary() if word.lower() not in taken][: options.words]
        moment = second_moment(target, others, plan.request.preserve, options)
        found = []
        for done, group in enumerate(phrases, 1):
            found.append(directions(target, group, options.rank))
            ctx.step(done, len(phrases))
        D = orthonormal(torch.cat(found))
        weighted = torch.linalg.solve(moment, D.T).T  # D G^-1, G symmetric
        A = torch.linalg.solve(weighted @ D.T, weighted)
        deltas: dict[str, dict[str, LowRank]] = {}
        for ref in target.modules("cross_v"):
            up = -(target.weight(ref).double().cpu() @ D.T)
            deltas.setdefault(ref.component, {})[ref.weight] = LowRank(A.float().contiguous(), up.float().contiguous())
        return Edit(target.family.id, deltas)


def second_moment(target: Target, words: Sequence[str], keep: Sequence[str], options: Options) -> Tensor:
    """G (d, d): mean of k k^T over the embedding rows of other words and kept prompts, with a ridge."""
    import torch

    prompts, weights = ["", *words, *keep], [1.0] * (1 + len(words)) + [options.keep_weight] * len(keep)
    rows = target.encode(prompts).embeds.double().cpu()  # (prompts, tokens, d)
    scale = torch.tensor(weights, dtype=torch.float64)
    moment = torch.einsum("p,ptd,pte->de", scale / scale.sum(), rows, rows) / rows.shape[1]
    return moment + options.ridge * moment.diagonal().mean() * torch.eye(len(moment), dtype=torch.float64)


def directions(target: Target, phrases: Sequence[str], rank: int) -> Tensor:
    """(r, d): leading right singular vectors of concept rows minus the empty prompt's rows."""
    import torch

    rows = target.encode(["", *phrases]).embeds.double().cpu()
    difference = (rows[1:] - rows[:1]).flatten(0, 1)
    values, vectors = torch.linalg.svd(difference, full_matrices=False)[1:]
    wanted = min(rank, int((values > 1e-6 * values[0]).sum()))
    return vectors[: max(wanted, 1)]


def orthonormal(rows: Tensor) -> Tensor:
    """Basis (r, d) of the span of ``rows``; directions that several concepts share count once."""
    import torch

    values, vectors = torch.linalg.svd(rows, full_matrices=False)[1:]
    return vectors[values > 1e-6 * values[0]]


@erase_plugins.hookimpl
def erase_methods() -> list[NullValue]:
    return [NullValue()]
