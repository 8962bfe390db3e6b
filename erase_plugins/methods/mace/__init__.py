"""MACE: mass concept erasure (Lu et al., CVPR 2024, arXiv 2403.06135).

1. Closed form: context words, end row and padding of the concept's prompts stop carrying it (section 3.1).
2. One LoRA of rank 1 per concept on keys and values: L = sum over cross-attention layers of the Frobenius norm of the
   attention to the concept's tokens and the end token, inside the concept's mask (section 3.2).
3. Fusion of all LoRAs in closed form; exact rank at most the number of concepts (section 3.3, `methods.mace.fusion`).

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
    - on toy-sized models the LoRAs start at deviation 1/sqrt(width) instead of 1/rank, with a larger rate, unclipped;
    - latents are those the model draws: no decoding, no normalisation with ImageNet statistics, no encoding;
    - merging, adding and revoking solve stages 1 and 3 again; the LoRAs of stage 2 stay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar

from erase_plugins.engine.closed_form_options import FramedOptions
from erase_plugins.engine.optimizers import OPTIMIZERS
from erase_plugins.errors import RequestError
from erase_plugins.hookspecs import hookimpl
from erase_plugins.options import option
from erase_plugins.training import Cost, LoopOptions, StagedMethod, TrainingRun
from erase_plugins.training.options import StartOptions, check_templates
from erase_plugins.types import EraseRequest

if TYPE_CHECKING:
    from torch import Tensor

    from erase_plugins.artifacts.edit import Edit
    from erase_plugins.artifacts.statistics import Statistics
    from erase_plugins.engine.collect import Recipe
    from erase_plugins.engine.loop import Schedule
    from erase_plugins.families.base import ModuleRef, TargetInfo
    from erase_plugins.families.target import FamilyTraits
    from erase_plugins.training.concept_loras import Memories


@dataclass(frozen=True)
class MACEOptions(StartOptions, LoopOptions, FramedOptions):
    """Options of MACE."""

    presets = "../../presets/mace.toml"

    tokens: str = option("context", "rows of stage 1: all but the concept's own, or as in uce",
                         choices=("context", "last", "window", "all"))  # fmt: skip
    templates: tuple[str, ...] = option(
        ("{}", "a {}", "a photo of a {}", "an image of a {}", "a picture of the {}", "a {} in the picture"),
        "phrasings of a concept; {} is the concept",
    )  # fmt: skip
    start: str = option("rank", "first values of the LoRAs' down factors: rank (deviation 1), kaiming (uniform within "
                        "1/sqrt(width)), width (deviation 1/sqrt(width))",
                        choices=("rank", "kaiming", "width"))  # fmt: skip
    clip: float = option(1.0, "largest norm of all gradients of a step together; 0: any", low=0.0)
    iterations: int = option(50, "training steps that every concept takes part in", low=1)
    optimizer: str = option("adamw", "optimizer", choices=OPTIMIZERS)
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

    def schedule(self) -> Schedule:
        return replace(super().schedule(), clip=self.clip or None)

    def recipe(self) -> Recipe:
        return replace(super().recipe(), templates=self.templates if self.tokens == "context" else ())


class MACE(StagedMethod):
    """Closed form, one tiny LoRA per concept, closed-form fusion: for up to a hundred concepts."""

    id = "mace"
    title = "Mass Concept Erasure"
    paper = "https://arxiv.org/abs/2403.06135"
    summary = "closed form plus one tiny LoRA per concept against attention to it, fused in closed form; many concepts"
    kinds = frozenset({"object", "style", "person", "explicit"})
    produces = frozenset({"contextmap", "lowrank"})
    Options = MACEOptions
    work_files: ClassVar[tuple[str, ...]] = ("pictures-*.safetensors", "masks.safetensors")
    contract_options: ClassVar[dict[str, Any]] = {
        "vocabulary": 60, "iterations": 3, "pictures": 2, "steps": 3, "batch": 1, "checkpoint_every": 1,
        "templates": ("{}", "a {}"),
    }  # fmt: skip

    def settle(self, options: MACEOptions, request: EraseRequest, info: TargetInfo) -> MACEOptions:
        check_templates(options.templates)
        if options.data is not None:
            if len(request.concepts) > 1:
                raise RequestError("data holds pictures of one concept; erase them one by one and merge the artifacts")
            from erase_plugins.training.image_pool import check_data

            check_data(options.data, info)
        return options

    def modules(self, info: TargetInfo, options: MACEOptions) -> Sequence[ModuleRef]:
        return info.modules("cross_kv")

    def steps(self, request: EraseRequest, options: MACEOptions) -> int:
        many = len(request.concepts)
        return -(-options.iterations * many // min(options.batch, many))

    def cost(self, request: EraseRequest, options: MACEOptions) -> Cost:
        drawn = options.pictures * len(request.concepts)
        return Cost(2.0 * options.steps * drawn, options.batch, drawn)

    def notes(self, request: EraseRequest, options: MACEOptions) -> Sequence[str]:
        return ("sample pictures are drawn for every concept",)

    def solver(self, run: TrainingRun) -> Mapping[str, Any]:
        options = run.options
        return {
            "lam": options.lam, "fuse_lam": options.fuse_lam, "fuse_keep": options.fuse_keep,
            "modules": [[ref.weight, ref.shape[0]] for ref in run.target.modules("cross_kv")],
        }  # fmt: skip

    def first(self, run: TrainingRun) -> Edit:
        return stage_one(run.statistics, run.target.family)

    def trainable(self, run: TrainingRun) -> Memories:
        from erase_plugins.training.concept_loras import Memories

        many, draw = len(run.request.concepts), run.ctx.generator("memories")
        return Memories(run.target, run.refs, 1, many, draw, run.options.start)

    def retain(self, run: TrainingRun) -> None:
        return None

    def edit(self, run: TrainingRun) -> Edit:
        return self.solve(with_changes(run), run.target.family)

    def prepare(self, run: TrainingRun) -> SimpleNamespace:
        """Pictures of all concepts, with the rows that stand for each and where in the picture it is."""
        from erase_plugins.engine.attack import token_rows
        from erase_plugins.engine.attention import attention_refs
        from erase_plugins.engine.pools import Rollout
        from erase_plugins.training.image_pool import Pictures

        options, target = run.options, run.target
        total = run.plan.steps
        rollout = Rollout(target, "ddim", options.steps, options.guidance, 1, run.ctx, run.adapters, total)
        prompts: list[str] = []
        rows: list[list[int]] = []
        owners: list[int] = []
        for number, concept in enumerate(run.request.concepts):
            for place in range(options.pictures):
                phrases = (concept.text, *concept.prompts)
                phrase = phrases[place // len(options.templates) % len(phrases)]
                prompt = options.templates[place % len(options.templates)].format(phrase)
                own = token_rows(target, prompt, phrase)
                end = target.encode([prompt]).last[0] + 1
                prompts.append(prompt)
                rows.append([*own, *([end] if end < target.info.tokens else [])])
                owners.append(number)
        pool = Pictures.given(rollout, options.data, prompts) if options.data else Pictures.drawn(
            rollout, "concepts", prompts, run.key)  # fmt: skip
        count, refs = len(pool.latents), attention_refs(target.info)
        rows = [rows[place % len(rows)] for place in range(count)]
        owners = [owners[place % len(owners)] for place in range(count)]
        own_rows = [places[:-1] or places for places in rows]
        masks = pool.masks(refs, own_rows, options.mask, options.mask_threshold, run.key)
        return SimpleNamespace(pool=pool, rows=rows, owners=owners, masks=masks, refs=refs)

    def loss(self, run: TrainingRun, step: int) -> Tensor:
        """The attention to the concepts inside their masks, on prompts that stage 1 has mapped."""
        from functools import partial

        import torch

        from erase_plugins.engine.attention import attention_norms, record_attention
        from erase_plugins.engine.distributed import processes, share
        from erase_plugins.engine.trajectories import ask
        from erase_plugins.training.image_pool import concentrated_times

        options, state = run.options, run.state
        times = concentrated_times if options.importance else None
        states, cond = state.pool.batch(options.batch, step, times)
        part = torch.arange(len(states))[share(len(states))]
        states, cond = states[part], cond[part.tolist()]
        picked = states.row.tolist()
        owners = [state.owners[row] for row in picked]
        norms = partial(
            attention_norms, rows=[state.rows[row] for row in picked], masks=state.masks[states.row],
            size=run.target.info.latent_shape[1:],
        )  # fmt: skip
        with run.adapters.opened_for(owners), record_attention(run.target, state.refs, norms) as found:
            ask(run.target, states.inputs, states.timestep, run.mapped(cond), run.ctx)
        return torch.stack(list(found.values())).sum() * (processes() / options.batch)

    def solve(self, statistics: Statistics, family: FamilyTraits) -> Edit:
        """The edit of given statistics: stage 1 and the fusion for all members together."""
        from erase_plugins.methods.mace.fusion import OwnChange, fuse

        edit = stage_one(statistics, family)
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


def stage_one(statistics: Statistics, family: FamilyTraits) -> Edit:
    """The map that takes the concepts out of their rows; what is kept weighs as much for every concept."""
    from erase_plugins.artifacts.closed_form import exact_factors
    from erase_plugins.artifacts.solved import context_edit
    from erase_plugins.engine.solve import joint_map

    return context_edit(*exact_factors(joint_map(statistics)), statistics, family)


def with_changes(run: TrainingRun) -> Statistics:
    """The statistics with every concept's own LoRA, for plain (not mapped) rows, and the rows of its prompts."""
    import torch

    from erase_plugins.engine.context_rows import gram_factor, prompt_rows

    downs, ups = run.adapters.factors()
    K = run.change.B.cpu().double() @ run.change.A.cpu().double()
    members = dict(run.statistics.members)
    for number, concept in enumerate(run.request.concepts):
        down = downs[:, number].double()
        rows = prompt_rows([concept.text, *concept.prompts], run.options.templates, run.target)
        extra = {
            "rows": gram_factor(rows), "down": (down + down @ K).float().contiguous(),
            "up": torch.cat([up[:, number] for up in ups]).contiguous(),
        }  # fmt: skip
        members[concept.text] = replace(members[concept.text], extra=extra)
    return replace(run.statistics, members=members)


@hookimpl
def erase_methods() -> list[MACE]:
    return [MACE()]
