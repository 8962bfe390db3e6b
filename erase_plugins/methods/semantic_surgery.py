"""Semantic Surgery: a concept's embedding leaves a prompt where it is found (NeurIPS 2025, arXiv 2510.22851).

With E a prompt's embedding (tokens x dim), for every prompt by itself:

    s_k = mean over positions of cos(E(c_k) - E(""), E(prompt)),    a_k = sigmoid((s_k + beta) / gamma)
    J = {k : a_k > 1/2},    E'(prompt) = E(prompt) - max_J a_k (E("c_j1, c_j2, ...") - E(""))

Nothing is fitted and the weights stay; the artifact holds embeddings and fits every model with the same text encoder.

Differs from the official code (``Lexiang-Xiong/Semantic-Surgery``):
    - beta is calibrated on prompts with and without the concepts (the published -0.06 and -0.12 belong to one encoder);
    - a is the maximum over the concepts of one prompt, not over a batch;
    - joint strings of up to ``joint`` concepts are stored, since an artifact has no text encoder; where more are found
      in a prompt, the most present ones are taken out;
    - no second pass with a detector on the finished picture.

**Positions are absolute**: a concept late in a prompt meets other rows than its own, only end and padding rows agree.
The pooled embedding of SDXL is not changed.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, ClassVar

from erase_plugins.hookspecs import hookimpl
from erase_plugins.options import option, resolve
from erase_plugins.types import EditPlan, EraseRequest

if TYPE_CHECKING:
    from erase_plugins.artifacts.edit import Edit
    from erase_plugins.engine.context import RunContext
    from erase_plugins.families.base import Target, TargetInfo


@dataclass(frozen=True)
class SemanticSurgeryOptions:
    """Options of Semantic Surgery."""

    beta: float | None = option(None, "shift of the score; none calibrates it", low=-1.0, high=1.0)
    gamma: float = option(0.02, "width of the step from absent to present", low=1e-6, high=1.0)
    joint: int = option(2, "concepts of one prompt that are taken out together", low=1, high=4)
    words: int = option(200, "vocabulary words that beta is calibrated on", low=8, high=10_000)


class SemanticSurgery:
    """A guard on prompts: where the concept is found in the embedding, it is subtracted."""

    id = "semantic-surgery"
    title = "Semantic Surgery"
    paper = "https://arxiv.org/abs/2510.22851"
    summary = "takes the concept's embedding out of prompts in which it is found; weights stay"
    needs = frozenset({"denoiser", "text", "embedding_map", "cross_attention"})
    kinds = frozenset({"object", "style", "person", "explicit"})
    produces = frozenset({"addon"})
    Options = SemanticSurgeryOptions
    contract_options: ClassVar[dict[str, int]] = {"words": 20}
    graph_node = False

    def plan(self, request: EraseRequest, info: TargetInfo) -> EditPlan:
        from erase_plugins.engine.estimate import guard_plan

        options = resolve(SemanticSurgeryOptions, request.options, info.profiles)
        stored = len(request.concepts) + len(subsets(len(request.concepts), options.joint))
        refs = info.modules("cross_kv")
        return guard_plan(request, options, info, refs, stored * info.tokens * info.width, options.words)

    def run(self, plan: EditPlan, target: Target, ctx: RunContext) -> Edit:
        from erase_plugins.artifacts.edit import AddOn, Edit
        from erase_plugins.artifacts.prompt_guards import SURGERY, SURGERY_KEY, presence
        from erase_plugins.engine.calibration import cut, with_and_without

        options = SemanticSurgeryOptions(**plan.options)
        names = [concept.text for concept in plan.request.concepts]
        found = subsets(len(names), options.joint)
        joined = [", ".join(names[number] for number in group) for group in found]
        rows = target.encode(["", *names, *joined]).embeds.float().cpu()
        away = rows[1:] - rows[0]
        concepts, joint = away[: len(names)].contiguous(), away[len(names) :].contiguous()
        beta = options.beta
        if beta is None:
            inside, outside = with_and_without(target, plan.request.concepts, options.words)
            scores = [
                presence(target.encode(part).embeds.float().cpu(), concepts).amax(1) for part in (inside, outside)
            ]
            middle, parted = cut(*scores)
            beta = -middle
            if not parted:
                ctx.warn("prompts with and without the concept overlap in their score: some pass, others change")
        ctx.step(1, 1, beta=beta)
        config = {"beta": beta, "gamma": options.gamma, "subsets": [list(group) for group in found], "names": names}
        addon = AddOn(SURGERY, {"concepts": concepts, "joint": joint}, config)
        return Edit(target.family.id, {target.family.denoiser: {SURGERY_KEY: addon}})


def subsets(count: int, largest: int) -> list[tuple[int, ...]]:
    """All sets of up to ``largest`` of ``count`` numbers, small ones first."""
    return [group for size in range(1, min(largest, count) + 1) for group in combinations(range(count), size)]


@hookimpl
def erase_methods() -> list[SemanticSurgery]:
    return [SemanticSurgery()]
