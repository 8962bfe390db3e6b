"""MACE: mass concept erasure (Lu et al., CVPR 2024, arXiv 2403.06135).

1. Closed form: context words, end row and padding of the concept's prompts stop carrying it (section 3.1).
2. One LoRA of rank 1 per concept on keys and values: L = sum over cross-attention layers of the Frobenius norm of the
   attention to the concept's tokens and the end token, inside the concept's mask (section 3.2).
3. Fusion of all LoRAs in closed form; exact rank at most the number of concepts (section 3.3, `engine.fusion`).

Differs from the official code:
    - stage 1 is solved once in float64 for all layers and kept as a context map; what is kept comes from the text
      encoder's vocabulary instead of captions of MS-COCO, weighted once (the official branch for few concepts applies
      its scale twice); a = 0 needs lam > 0;
    - six phrasings of a concept instead of thirty, which together weigh as one prompt, so that concepts count alike
      whatever their phrasings; what is kept weighs more with more concepts, in stages 1 and 3; the start row, which
      all prompts share, takes part in nothing;
    - on pocket stage 1 takes the rows of `uce` (``tokens=window``), a concept's own last row among them: with twenty
      concepts context rows alone cost more of the rest for the same erasure;
    - masks are the base model's own attention to the concept (no segmentation model), or given with ``data``; styles
      have none;
    - the LoRAs of all concepts train together, every sample meeting its own, on mapped prompts instead of a second
      model;
    - latents are those the model draws: no decoding, no normalisation with ImageNet statistics, no encoding;
    - merging, adding and revoking solve stages 1 and 3 again; the LoRAs of stage 2 stay.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from erase_plugins.engine.closed_form_options import FramedOptions
from erase_plugins.engine.erasing import resolved
from erase_plugins.engine.training_options import LoopOptions, check_templates, revive
from erase_plugins.errors import RequestError
from erase_plugins.hookspecs import hookimpl
from erase_plugins.options import as_dict, option
from erase_plugins.types import EditPlan, EraseRequest

if TYPE_CHECKING:
    from torch import Tensor

    from erase_plugins.artifacts.edit import ContextMap, Edit
    from erase_plugins.artifacts.statistics import Statistics
    from erase_plugins.engine.collect import Recipe
    from erase_plugins.engine.context import RunContext
    from erase_plugins.engine.memories import Memories
    from erase_plugins.engine.pools import Rollout
    from erase_plugins.families.base import Target, TargetInfo
    from erase_plugins.families.target import FamilyTraits


@dataclass(frozen=True)
class MACEOptions(LoopOptions, FramedOptions):
    """Options of MACE."""

    presets = "../presets/mace.toml"

    tokens: str = option("context", "rows of stage 1: all but the concept's own, or as in uce",
                         choices=("context", "last", "window", "all"))  # fmt: skip
    templates: tuple[str, ...] = option(
        ("{}", "a {}", "a photo of a {}", "an image of a {}", "a picture of the {}", "a {} in the picture"),
        "phrasings of a concept; {} is the concept",
    )  # fmt: skip
    iterations: int = option(50, "training steps that every concept takes part in", low=1)
    optimizer: str = option("adamw", "optimizer", choices=("adam", "adamw", "sgd"))
    pictures: int = option(8, "pictures drawn per concept", low=1, high=1000)
    steps: int = option(30, "sampler steps of a picture", low=1, high=1000)
    guidance: float = option(7.5, "classifier-free guidance of the pictures", low=0.0)
    importance: bool = option(True, "draw timesteps between 200 and 400 more often")
    mask: str = option("attention", "where attention is pushed down: the concept's place, or everywhere",
                       choices=("attention", "none"))  # fmt: skip
    mask_threshold: float = option(0.5, "share of the strongest attention that belongs to the mask", low=0.0, high=1.0)
    data: str | None = option(None, "safetensors file with latents (n, channels, h, w) and masks (n, h, w)")
    fuse_lam: float = option(0.1, "ridge term of the fusion", low=1e-9)
    fuse_keep: float = option(40.0, "weight of what is kept in the fusion, for each concept", low=0.0)

    @property
    def lora_rank(self) -> int:
        """Rank of one concept's LoRA."""
        return 1

    def recipe(self) -> Recipe:
        return replace(super().recipe(), templates=self.templates if self.tokens == "context" else ())


class MACE:
    """Closed form, one tiny LoRA per concept, closed-form fusion: for up to a hundred concepts."""

    id = "mace"
    title = "Mass Concept Erasure"
    paper = "https://arxiv.org/abs/2403.06135"
    summary = "closed form plus one tiny LoRA per concept against attention to it, fused in closed form; many concepts"
    families = frozenset({"sd1", "sdxl"})
    kinds = frozenset({"object", "style", "person", "explicit"})
    produces = frozenset({"contextmap", "lowrank"})
    needs = frozenset({"diffusers"})
    Options = MACEOptions
    work_files: ClassVar[tuple[str, ...]] = ("pictures-*.safetensors", "masks.safetensors")
    contract_options: ClassVar[dict[str, Any]] = {
        "vocabulary": 60, "iterations": 3, "pictures": 2, "steps": 3, "batch": 1, "checkpoint_every": 1,
        "templates": ("{}", "a {}"),
    }  # fmt: skip

    def plan(self, request: EraseRequest, info: TargetInfo) -> EditPlan:
        from erase_plugins.engine import training_plan as cost
        from erase_plugins.engine.estimate import closed_form_plan

        options = self._resolve(request, info)
        cost.check_trainable(self.id, info)
        refs, many = info.modules("cross_kv"), len(request.concepts)
        longer = replace(options, iterations=-(-options.iterations * many // min(options.batch, many)))
        plan = cost.with_training(
            closed_form_plan(request, options, info), longer, info, refs, batch=options.batch,
            forwards=2.0 * options.steps * options.pictures * many, states=options.pictures * many,
        )  # fmt: skip
        return replace(
            plan, options=as_dict(options), notes=(*plan.notes, "sample pictures are drawn for every concept")
        )

    def _resolve(self, request: EraseRequest, info: TargetInfo) -> MACEOptions:
        options: MACEOptions = resolved(MACEOptions, request, info)
        check_templates(options.templates)
        if options.data is not None:
            if len(request.concepts) > 1:
                raise RequestError("data holds pictures of one concept; erase them one by one and merge the artifacts")
            from erase_plugins.engine.drawn import check_data

            check_data(options.data, info)
        return options

    def run(self, plan: EditPlan, target: Target, ctx: RunContext) -> Edit:
        from erase_plugins.engine.collect import collect, summary
        from erase_plugins.engine.loop import train
        from erase_plugins.engine.memories import Memories
        from erase_plugins.engine.pools import Rollout
        from erase_plugins.engine.run import plan_key

        options, key, request = revive(MACEOptions, plan.options), plan_key(plan), plan.request
        refs = list(target.modules("cross_kv"))
        ctx.precision = options.precision
        solver = {
            "method": self.id, "lam": options.lam, "fuse_lam": options.fuse_lam, "fuse_keep": options.fuse_keep,
            "modules": [[ref.weight, ref.shape[0]] for ref in refs],
        }  # fmt: skip
        statistics = collect(request, options.recipe(), solver, target, ctx, need_sigma=False)
        summary(statistics, ctx)
        change = refined(statistics)
        ctx.start(plan.steps)
        memories = Memories(target, refs, 1, len(request.concepts), ctx.generator("memories"))
        rollout = Rollout(target, "ddim", options.steps, options.guidance, 1, ctx, memories, plan.steps)

        def edit() -> Edit:
            changed = self._with_changes(statistics, request, options, memories, change, target)
            return self.solve(changed, target.family)

        with memories:
            loss = attention_run(request, options, rollout, memories, change, key)
            train(ctx, memories, loss, replace(options.schedule(), iterations=plan.steps), key, edit_of=edit)
        return edit()

    def _with_changes(
        self, statistics: Statistics, request: EraseRequest, options: MACEOptions, memories: Memories,
        change: ContextMap, target: Target,
    ) -> Statistics:  # fmt: skip
        """The statistics with every concept's own LoRA, for plain (not mapped) rows, and the rows of its prompts."""
        import torch

        from erase_plugins.engine.context_rows import gram_factor, prompt_rows

        downs, ups = memories.factors()
        K = (change.B.double() @ change.A.double()).cpu()
        members = dict(statistics.members)
        for number, concept in enumerate(request.concepts):
            down = downs[:, number].double()
            rows = prompt_rows([concept.text, *concept.prompts], options.templates, target)
            extra = {
                "rows": gram_factor(rows), "down": (down + down @ K).float().contiguous(),
                "up": torch.cat([up[:, number] for up in ups]).contiguous(),
            }  # fmt: skip
            members[concept.text] = replace(members[concept.text], extra=extra)
        return replace(statistics, members=members)

    def solve(self, statistics: Statistics, family: FamilyTraits) -> Edit:
        """The edit of given statistics: stage 1 and the fusion for all members together."""
        from erase_plugins.artifacts.solved import context_edit
        from erase_plugins.engine.fusion import OwnChange, fuse

        change = refined(statistics)
        edit = context_edit(change.A, change.B, statistics, family)
        modules = statistics.solver["modules"]
        sizes = [int(size) for _, size in modules]
        changes = [
            OwnChange(part.extra["rows"], part.extra["down"], part.extra["up"].split(sizes))
            for part in statistics.members.values()
        ]
        solver = statistics.solver
        # the more LoRAs, the more of them meet in the rows that all prompts share: what is kept gains weight with them
        keep_scale = float(solver["fuse_keep"]) * len(changes)
        fused = fuse(changes, statistics.kept_gram(), float(solver["fuse_lam"]), keep_scale)
        ((component, group),) = edit.deltas.items()
        deltas = {**group, **{str(name): part for (name, _), part in zip(modules, fused, strict=True)}}
        return replace(edit, deltas={component: deltas})


def refined(statistics: Statistics) -> ContextMap:
    """Stage 1: the map that takes the concepts out of their rows; what is kept weighs as much for every concept."""
    from erase_plugins.artifacts.closed_form import exact_factors
    from erase_plugins.artifacts.edit import ContextMap
    from erase_plugins.engine.solving import joint_map

    A, B = exact_factors(joint_map(statistics))
    return ContextMap(A.float().contiguous(), B.float().contiguous())


def attention_run(
    request: EraseRequest, options: MACEOptions, rollout: Rollout, memories: Memories, change: ContextMap, key: str
) -> Callable[[int], Tensor]:
    """The loss of a training step of stage 2, over pictures of all concepts."""
    import torch

    from erase_plugins.engine.attack import token_rows
    from erase_plugins.engine.attention import attention_norm, attention_refs, record_attention
    from erase_plugins.engine.distributed import processes, share
    from erase_plugins.engine.drawn import Pictures, concentrated_times
    from erase_plugins.engine.mapping import mapped
    from erase_plugins.engine.trajectories import ask

    target, ctx, tokens = rollout.target, rollout.ctx, rollout.target.info.tokens
    prompts: list[str] = []
    rows: list[list[int]] = []
    owners: list[int] = []
    for number, concept in enumerate(request.concepts):
        for place in range(options.pictures):
            phrases = (concept.text, *concept.prompts)
            phrase = phrases[place // len(options.templates) % len(phrases)]
            prompt = options.templates[place % len(options.templates)].format(phrase)
            own = token_rows(target, prompt, phrase)
            end = target.encode([prompt]).last[0] + 1
            prompts.append(prompt)
            rows.append([*own, *([end] if end < tokens else [])])
            owners.append(number)
    pool = Pictures.given(rollout, options.data, prompts) if options.data else Pictures.drawn(
        rollout, "concepts", prompts, key)  # fmt: skip
    count = len(pool.latents)
    rows, owners = (
        [rows[place % len(rows)] for place in range(count)],
        [owners[place % len(owners)] for place in range(count)],
    )
    refs = attention_refs(target.info)
    masks = pool.masks(refs, [places[:-1] or places for places in rows], options.mask, options.mask_threshold, key)
    times = concentrated_times if options.importance else None
    size = (target.info.latent_shape[1], target.info.latent_shape[2])

    def loss(step: int) -> Tensor:
        states, cond = pool.batch(options.batch, step, times)
        part = torch.arange(len(states))[share(len(states))]
        states, cond = states[part], cond[part.tolist()]
        picked = states.row.tolist()
        with memories.opened_for([owners[row] for row in picked]), record_attention(target, refs) as maps:
            ask(target, states.inputs, states.timestep, mapped(cond, change), ctx)
        found = attention_norm(maps, [rows[row] for row in picked], masks[states.row], size)
        return found * (processes() * len(part) / options.batch)

    return loss


@hookimpl
def erase_methods() -> list[MACE]:
    return [MACE()]
