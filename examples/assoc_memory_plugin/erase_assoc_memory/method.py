"""The method ``anti-hebbian``: cross-attention values as an associative memory from which a concept is unlearned.

A value projection W maps the embedding row c of a word to what is drawn. Seen as a linear associative memory, the
association of the concept is replaced by that of its anchor with the delta rule,

    W <- W - (W c - W a) c^T G^-1 / (c^T G^-1 c),    G = mean of k k^T over retained words + noise^2 I,

the rank-one change that moves retained words least. Noise on the cue enters as the ridge, as it does in the learning
rule of arXiv 1709.08367. Keys stay, and so does the layout of the picture.
Differs from the paper: it treats binary networks, no diffusion model; the rule is the pseudo-inverse one of linear
memories (Kohonen 1972), and several rows of one concept are solved together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from erase_plugins.options import as_dict, option, resolve
from erase_plugins.types import EditPlan, EraseRequest

if TYPE_CHECKING:
    from erase_plugins import Edit


@dataclass(frozen=True)
class Options:
    """Options of the delta rule."""

    words: int = option(300, "ordinary words whose values should move least", low=0, high=20_000)
    noise: float = option(0.05, "noise on the cue, relative to the size of a row", low=1e-4, high=10.0)
    rank: int = option(12, "directions of one concept", low=1, high=77)
    keep_weight: float = option(5.0, "weight of a prompt that is kept, in words", low=0.0, high=1000.0)


class AntiHebbian:
    """Unlearns associations of the values, in closed form."""

    id = "anti-hebbian"
    title = "Anti-Hebbian unlearning of values"
    paper = "https://arxiv.org/abs/1709.08367"
    summary = "delta rule on cross-attention values, read as an associative memory under noise"
    needs = frozenset({"denoiser", "text"})
    kinds = frozenset({"object", "style"})
    produces = frozenset({"lowrank"})
    Options = Options
    contract_options: ClassVar[dict[str, int]] = {"words": 40}

    def plan(self, request: EraseRequest, info: Any) -> EditPlan:
        """Modules, rank and size from the configuration alone."""
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
            notes=tuple(f"{item.text} -> {item.anchor or 'the empty prompt'}" for item in request.concepts),
        )

    def run(self, plan: EditPlan, target: Any, ctx: Any) -> Edit:
        """The change of every value projection, as B A with A = V^T G^-1 and B = -W D V."""
        import torch

        from erase_plugins import Edit, LowRank

        options, request = Options(**plan.options), plan.request
        taken = {word for item in request.concepts for word in item.text.lower().split()}
        words = [word for word in target.vocabulary() if word.lower() not in taken][: options.words]
        prompts = ["", *words, *request.preserve]
        rows = target.encode(prompts).embeds.double().cpu()
        weight = torch.ones(len(prompts), dtype=torch.float64)
        weight[1 + len(words) :] = options.keep_weight
        moment = torch.einsum("p,ptd,pte->de", weight / weight.sum(), rows, rows) / rows.shape[1]
        moment += options.noise**2 * moment.diagonal().sum() * torch.eye(len(moment), dtype=torch.float64) / len(moment)
        cues, changes = [], []
        for done, item in enumerate(request.concepts, 1):
            phrases = [item.text, *item.prompts]
            asked = target.encode([*phrases, item.anchor or ""]).embeds.double().cpu()
            cue, change = asked[:-1].flatten(0, 1), (asked[:-1] - asked[-1:]).flatten(0, 1)
            # rows of one prompt are nearly parallel: the directions that matter, at the size that they have
            left, size, right = torch.linalg.svd(change, full_matrices=False)
            count = min(options.rank, int((size > 1e-6 * size[0]).sum()))
            cues.append(left[:, :count].T @ cue)
            changes.append(size[:count, None] * right[:count])
            ctx.step(done, len(request.concepts))
        cue, change = torch.cat(cues), torch.cat(changes)
        answered = torch.linalg.solve(moment, cue.T).T  # K G^-1
        gram = answered @ cue.T
        down = torch.linalg.solve(
            gram + 1e-8 * gram.diagonal().mean() * torch.eye(len(gram), dtype=torch.float64), answered
        )
        deltas: dict[str, dict[str, LowRank]] = {}
        for ref in target.modules("cross_v"):
            up = -(target.weight(ref).double().cpu() @ change.T)
            deltas.setdefault(ref.component, {})[ref.weight] = LowRank(
                down.float().contiguous(), up.float().contiguous()
            )
        return Edit(target.family.id, deltas)
