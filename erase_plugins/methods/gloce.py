"""GLoCE: gated low-rank replacement of image tokens (Lee, Lim and Chun, CVPR 2025, arXiv 2503.12356).

Behind every cross-attention an image token x that looks like the concept becomes what it would be of something else:

    y = m_s + V_s V_s^T (I - V_t V_t^T) (x - m_t),
    s = |V_g^T (x - m_n)|^2 / |x - m_n|^2,   g = sigmoid(k (s - c)),   x becomes (1 - g) x + g y

with means m and leading directions V of tokens of the target, of its surrogate and of a neutral prompt, seen along a
few trajectories; c is the mean of the largest s of pictures that must not change, plus ``theta`` deviations. So the
concept leaves and the rest of the picture stays. Nothing is trained.

Differs from the official code (``Hyun1A/GLoCE``):
    - the gate acts in all steps of the sampler, and directions are seen along all of them, so nothing counts steps;
    - no pooled copies of the tokens, so pictures need not be square;
    - one set of trajectories for all modules, of which sums are kept instead of tokens;
    - without ``--to`` surrogate and neutral are the prompt without the concept, or 'real photograph', 'a celebrity';
    - pictures that must not change show what is named with --keep and the closest words that mean something else.

**The gate is per token and cannot be a weight change**: the artifact is a patch, with no LoRA file. The largest s of a
picture grows with its number of tokens: run it at the size it was made at.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import log
from typing import TYPE_CHECKING, Any, ClassVar

from erase_plugins.errors import RequestError
from erase_plugins.hints import Hint
from erase_plugins.hookspecs import hookimpl
from erase_plugins.options import option, resolve
from erase_plugins.types import EditPlan, EraseRequest

if TYPE_CHECKING:
    from torch import Tensor

    from erase_plugins.artifacts.edit import Edit
    from erase_plugins.engine.context import RunContext
    from erase_plugins.families.base import ModuleRef, Target, TargetInfo
    from erase_plugins.types import Concept

#: what a kind of concept is told from
_NEUTRAL = {"person": "a celebrity", "style": "real photograph", "explicit": "a person in modest clothing"}


@dataclass(frozen=True)
class GLoCEOptions:
    """Options of GLoCE."""

    presets = "../presets/gloce.toml"

    gate_rank: int = option(1, "r_g, directions that the gate looks along", low=1)
    target_rank: int = option(16, "r_u, directions of the concept that are taken out", low=1)
    surrogate_rank: int = option(2, "r_d, directions of the surrogate that stay", low=1)
    theta: float = option(2.5, "deviations above what must not change at which the gate is half open", low=1e-6,
                          searched=(0.5, 4.0))  # fmt: skip
    seeds: int = option(3, "pictures of every prompt", low=1)
    anchors: int = option(3, "words close to the concept that must not change", low=0)
    near: float = option(0.8, "closeness to the concept from which a word may change", low=0.0, high=1.0)
    steps: int = option(20, "sampler steps of a picture", low=1, high=1000)
    harvest: int = option(5, "steps of a picture that are looked at", low=1)
    guidance: float = option(7.5, "classifier-free guidance of the pictures", low=0.0)
    templates: tuple[str, ...] = option(("a picture of {}",), "prompts; {} is the concept")


class GLoCE:
    """Replaces image tokens behind a gate; the rest of the picture stays. Nothing is trained."""

    id = "gloce"
    title = "Gated low-rank concept erasure"
    paper = "https://arxiv.org/abs/2503.12356"
    summary = "replaces the image tokens that look like the concept behind a gate; the rest of the picture stays"
    needs = frozenset({"denoiser", "text", "cross_attention"})
    packages = frozenset({"diffusers"})
    kinds = frozenset({"object", "style", "person", "explicit"})
    produces = frozenset({"addon"})
    Options = GLoCEOptions
    #: a gate that the most alike tokens of a random model open
    contract_options: ClassVar[dict[str, Any]] = {
        "steps": 4, "harvest": 2, "seeds": 1, "target_rank": 2, "theta": 1e-6,
    }  # fmt: skip
    graph_node = False

    def plan(self, request: EraseRequest, info: TargetInfo) -> EditPlan:
        from erase_plugins.engine.erasing import names_of_all
        from erase_plugins.options import as_dict
        from erase_plugins.training.options import check_templates
        from erase_plugins.training.plan import estimate

        options = resolve(GLoCEOptions, request.options, names_of_all(request, info))
        check_templates(options.templates)
        if options.anchors + len(request.preserve) < 2:
            raise RequestError(
                "the gate needs two pictures that must not change; raise anchors or name some to ", Hint("keep")
            )
        refs, count = outputs(info), len(request.concepts)
        narrow = min((ref.shape[0] for ref in refs), default=0)
        if max(options.target_rank, options.gate_rank, options.surrogate_rank) >= narrow:
            raise RequestError(f"a rank of {narrow} or more leaves nothing of the smallest layer; lower the ranks")
        each = 2 * options.surrogate_rank + 3 + options.gate_rank
        values = count * sum(ref.shape[0] * each + 2 for ref in refs)
        texts = sum(len([concept.text, *concept.prompts]) for concept in request.concepts)
        texts += len(shared_texts(request)) + count * (options.anchors + len(request.preserve))
        forwards = texts * len(options.templates) * options.seeds * (2.0 * options.steps + options.harvest)
        return EditPlan(
            request=request, options=as_dict(options),
            modules=tuple(f"{ref.component}.{ref.path}" for ref in refs),
            steps=2 * count + len(shared_texts(request)),
            notes=("a patch with a gate for every image token: LoRA files and ComfyUI cannot carry it",),
            produces=("addon",),
            **estimate(info, request, values, forwards=forwards, iterations=0, batch=0, states=0,
                       searches=options.anchors > 0),
        )  # fmt: skip

    def run(self, plan: EditPlan, target: Target, ctx: RunContext) -> Edit:
        import torch

        from erase_plugins.artifacts.edit import AddOn, Edit
        from erase_plugins.artifacts.token_gate import TOKEN_GATE
        from erase_plugins.training.options import revive

        options = revive(GLoCEOptions, plan.options)
        look = _Look(options, target, ctx, plan.steps or 1)
        parts: list[dict[str, dict[str, Tensor]]] = [
            look.gates(concept, plan.request) for concept in plan.request.concepts
        ]
        group = {
            ref.path: AddOn(
                TOKEN_GATE,
                {name: torch.stack([part[ref.path][name] for part in parts]) for name in parts[0][ref.path]},
                {},
            )
            for ref in look.refs
        }
        return Edit(target.family.id, {target.family.denoiser: group})


def shared_texts(request: EraseRequest) -> set[str]:
    """Surrogates and neutral prompts, each of which is looked at once for all concepts."""
    neutral = {_NEUTRAL.get(concept.kind, "") for concept in request.concepts}
    return neutral | {concept.anchor for concept in request.concepts if concept.anchor}


def outputs(info: TargetInfo) -> tuple[ModuleRef, ...]:
    """Output projections of cross-attention."""
    return tuple(ref for ref in info.modules("cross_attn") if ref.path.endswith("to_out.0"))


class _Look:
    """Tokens of prompts, along trajectories of the model as it is."""

    def __init__(self, options: GLoCEOptions, target: Target, ctx: RunContext, total: int) -> None:
        self.options, self.target, self.ctx = options, target, ctx
        self.refs, self.done, self.total = outputs(target.info), 0, total
        self.seen: dict[str, dict[str, tuple[Tensor, Tensor]]] = {}

    def gates(self, concept: Concept, request: EraseRequest) -> dict[str, dict[str, Tensor]]:
        """Module path -> what its gate for one concept holds."""
        from erase_plugins.artifacts.token_gate import likeness
        from erase_plugins.training.retain import keep_words

        options = self.options
        phrases, neutral = [concept.text, *concept.prompts], _NEUTRAL.get(concept.kind, "")
        words = keep_words(
            self.target, phrases, [concept], 2 * options.anchors, options.near, self.ctx.generator("anchors")
        )[: options.anchors]
        anchors = list(dict.fromkeys([*request.preserve, *words]))
        if len(anchors) < 2:
            raise RequestError(
                f"found {len(anchors)} words that must not change beside '{concept.text}'; ", Hint("keep"), " some"
            )
        seen = {
            "target": self.moments(phrases),
            **{
                name: self.once(text) for name, text in (("surrogate", concept.anchor or neutral), ("neutral", neutral))
            },
        }
        found = {ref.path: self.parts({name: item[ref.path] for name, item in seen.items()}) for ref in self.refs}
        largest: dict[str, list[Tensor]] = {ref.path: [] for ref in self.refs}
        for path, tokens in self.tokens(anchors):
            one = found[path]
            largest[path].append(likeness(tokens.float().cpu(), one["neutral"], one["gate"]).amax(1))
        for path, scores in largest.items():
            every = _joined(scores)
            found[path]["centre"] = every.mean() + options.theta * every.std()
            found[path]["slope"] = every.new_tensor(log(99) / (0.001 * options.theta))
        return found

    def parts(self, seen: dict[str, tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
        """Means and directions from (mean, covariance) of target, surrogate and neutral."""
        options = self.options
        (m_t, target), (m_s, surrogate), (m_n, _) = seen["target"], seen["surrogate"], seen["neutral"]
        V_t, V_s = leading(target, options.target_rank), leading(surrogate, options.surrogate_rank)
        way = m_t - m_n
        gate = leading(target + way[:, None] * way, options.gate_rank)
        found = {
            "up": V_s, "down": V_s - V_t @ (V_t.T @ V_s), "gate": gate, "surrogate": m_s, "target": m_t, "neutral": m_n
        }  # fmt: skip
        return {name: part.float().contiguous() for name, part in found.items()}

    def once(self, text: str) -> dict[str, tuple[Tensor, Tensor]]:
        """`moments` of a text that serves several sets or concepts."""
        if text not in self.seen:
            self.seen[text] = self.moments([text])
        return self.seen[text]

    def moments(self, texts: Sequence[str]) -> dict[str, tuple[Tensor, Tensor]]:
        """Module path -> mean (d,) and covariance (d, d) of tokens, float64."""
        sums: dict[str, list[Any]] = {ref.path: [0, 0.0, 0.0] for ref in self.refs}
        for path, tokens in self.tokens(texts):
            flat = tokens.flatten(0, 1).cpu().double()
            sums[path] = [sums[path][0] + len(flat), sums[path][1] + flat.sum(0), sums[path][2] + flat.T @ flat]
        return {
            path: (total / count, square / count - (total / count)[:, None] * (total / count))
            for path, (count, total, square) in sums.items()
        }

    def tokens(self, texts: Sequence[str]) -> Iterator[tuple[str, Tensor]]:
        """(module path, tokens (states, tokens, d)) of states along trajectories, for the half with the prompt."""
        from erase_plugins.engine.image_tokens import image_tokens

        options = self.options
        prompts = [
            " ".join(frame.format(text).split()) for frame in options.templates for text in texts
        ] * options.seeds
        generator = self.ctx.generator(f"pictures {'|'.join(texts)}")
        for path, _, tokens in image_tokens(
            self.target, self.refs, prompts, generator, self.ctx, steps=options.steps, picked=options.harvest,
            guidance=options.guidance,
        ):  # fmt: skip
            yield path, tokens
        self.done += 1
        self.ctx.step(self.done, self.total)


def leading(covariance: Tensor, rank: int) -> Tensor:
    """The ``rank`` directions (d, rank) of largest energy."""
    import torch

    vectors: Tensor = torch.linalg.eigh(covariance)[1]
    return vectors[:, -rank:].flip(1)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    import torch

    return torch.cat(list(parts)).float()


@hookimpl
def erase_methods() -> list[GLoCE]:
    return [GLoCE()]
