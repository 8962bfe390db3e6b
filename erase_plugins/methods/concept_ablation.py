"""Concept Ablation (Kumari et al., ICCV 2023, arXiv 2303.13516): the concept's prompts are answered as an anchor's.

    model loss:  |eps(x_t, t, c_target) - sg eps(x_t, t, c_anchor)|^2
    noise loss:  |eps(x_t, t, c_target) - noise|^2

x_t are noised pictures that the base model draws for anchor prompts; the anchor pass uses the weights as they are at
the moment. ``prior`` adds the ordinary noise loss on anchor prompts. Keys and values of the start token are detached.

Differs from the official code:
    - pictures are drawn once as latents and noised anew in every step (the official code stores decoded pictures and
      encodes them again), so there is no resizing augmentation and no valid-picture mask;
    - anchor prompts are templates around the anchor (--to, else by kind, else the empty prompt) or given with
      ``anchor_prompts``; no language model writes them, nothing is retrieved;
    - learning rates are stated as used: the published 2e-6 and 4e-6 are multiplied by batch size (8), and by 2 with
      prior preservation, before the first step;
    - LoRA by default; ``parameters=full`` as published; ablating memorised pictures is not offered;
    - what must stay can be held (on for toy-sized models and with --keep);
    - on toy-sized models words that the text encoder takes for the same become the anchor too (``aliases``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from erase_plugins.engine.erasing import all_phrases, resolved
from erase_plugins.engine.training_options import TrainingOptions, check_templates, revive
from erase_plugins.errors import RequestError
from erase_plugins.hookspecs import hookimpl
from erase_plugins.options import as_dict, option
from erase_plugins.types import Concept, EditPlan, EraseRequest

if TYPE_CHECKING:
    from torch import Tensor

    from erase_plugins.artifacts.edit import Edit
    from erase_plugins.engine.context import RunContext
    from erase_plugins.engine.pools import Rollout
    from erase_plugins.families.base import Target, TargetInfo

#: train set -> group of the family
GROUPS = {"cross": "cross_kv", "attn": "attn", "all": "denoiser"}
#: how the target's prompt is made of the anchor's, by kind; objects replace the anchor inside the prompt
_PHRASINGS = {
    "style": ("{p}, in the style of {t}", "in {t}'s style, {p}", "in {t}'s style, {p}"),
    "explicit": ("{t}, {p}", "in {t} style, {p}", "{p}, {t}"),
}


@dataclass(frozen=True)
class ConceptAblationOptions(TrainingOptions):
    """Options of Concept Ablation."""

    presets = "../presets/concept-ablation.toml"

    train: str = option("cross", "modules: cross (keys and values of cross-attention), attn, all",
                        choices=tuple(GROUPS))  # fmt: skip
    loss: str = option("model", "model: as the anchor's prediction; noise: the true noise", choices=("model", "noise"))
    prior: float = option(0.0, "weight of the noise loss on anchor prompts", low=0.0)
    iterations: int = option(100, "training steps", low=1)
    batch: int = option(8, "states per training step", low=1, high=1024)
    optimizer: str = option("adamw", "optimizer", choices=("adam", "adamw", "sgd"))
    keep_words: int = option(0, "vocabulary words to hold in place, half of them the closest", low=0, high=10_000)
    guidance: float = option(6.0, "classifier-free guidance of the pictures", low=0.0)
    steps: int = option(25, "sampler steps of a picture", low=1, high=1000)
    trajectories: int = option(200, "pictures drawn for each concept", low=1)
    templates: tuple[str, ...] = option(
        ("{}", "a {}", "a picture of a {}", "a photo of a {}", "a {} on a table", "a close-up of a {}"),
        "anchor prompts; {} is the anchor",
    )
    anchor_prompts: tuple[str, ...] = option((), "anchor prompts in place of the templates, each with the anchor in it")
    aliases: bool = option(False, "erase words that mean the same in the encoder's vocabulary")
    alias_threshold: float = option(0.9, "closeness from which a word counts as an alias", low=0.0, high=1.0)


class ConceptAblation:
    """Distils an anchor concept into the prompts of another; gentle on neighbours."""

    id = "concept-ablation"
    title = "Concept Ablation"
    paper = "https://arxiv.org/abs/2303.13516"
    summary = "teaches the concept's prompts to draw an anchor instead, on pictures of the anchor"
    families = frozenset({"sd1", "sdxl"})
    kinds = frozenset({"object", "style", "person", "explicit"})
    produces = frozenset({"lowrank", "dense", "bias"})
    needs = frozenset({"diffusers"})
    Options = ConceptAblationOptions
    work_files: ClassVar[tuple[str, ...]] = ("states-*.safetensors", "pictures-*.safetensors")
    contract_options: ClassVar[dict[str, Any]] = {
        "iterations": 3, "trajectories": 2, "steps": 4, "keep_words": 2, "keep_batch": 1, "harvest": 2, "batch": 2,
        "checkpoint_every": 1, "prior": 0.5,
    }  # fmt: skip

    def plan(self, request: EraseRequest, info: TargetInfo) -> EditPlan:
        from erase_plugins.engine import training_plan as cost

        options = self._resolve(request, info)
        cost.check_trainable(self.id, info)
        refs = tuple(ref for ref in info.modules(GROUPS[options.train]) if ref.kind in ("linear", "conv"))
        kept = options.kept(request)
        forwards = 2.0 * options.steps * (len(request.concepts) * options.trajectories + kept)
        if options.loss == "model":
            forwards += options.iterations * options.batch
        return EditPlan(
            request=request,
            options=as_dict(options),
            modules=tuple(f"{ref.component}.{ref.path}" for ref in refs),
            steps=options.iterations,
            notes=tuple(f"{item.text} -> {anchor_of(item, options) or 'no word'}" for item in request.concepts[:20]),
            **cost.estimate(
                info, request, cost.trainable(refs, options.lora_rank), forwards=forwards,
                iterations=options.iterations,
                batch=options.batch * (1 + (options.prior > 0)) + options.keep_batch * (kept > 0),
                states=len(request.concepts) * options.trajectories + kept * options.harvest,
            ),
        )  # fmt: skip

    def _resolve(self, request: EraseRequest, info: TargetInfo) -> ConceptAblationOptions:
        options: ConceptAblationOptions = resolved(ConceptAblationOptions, request, info)
        check_templates(options.templates)
        for concept in request.concepts:
            anchor = anchor_of(concept, options)
            if anchor.lower() == concept.text.strip().lower():
                raise RequestError(f"'{concept.text}' would become itself; give another --to")
            lacking = [text for text in options.anchor_prompts if anchor not in text]
            if lacking:
                raise RequestError(f"anchor prompt '{lacking[0]}' lacks the anchor '{anchor}'; name it in every prompt")
            if options.anchor_prompts and not anchor:
                raise RequestError("anchor_prompts needs --to: which word in them becomes the concept?")
        return replace(options, harvest=min(options.harvest, options.steps))

    def run(self, plan: EditPlan, target: Target, ctx: RunContext) -> Edit:
        from erase_plugins.engine.adapters import Adapters
        from erase_plugins.engine.loop import train
        from erase_plugins.engine.run import plan_key

        options, key = revive(ConceptAblationOptions, plan.options), plan_key(plan)
        wanted = set(plan.modules)
        refs = [ref for ref in target.modules(GROUPS[options.train]) if f"{ref.component}.{ref.path}" in wanted]
        adapters = Adapters(target, refs, options.lora_rank, generator=ctx.generator("adapters"))
        ctx.precision = options.precision
        ctx.start(options.iterations)
        with adapters, still_start_token(target):
            loss = ablation_loss(plan.request, options, options.rollout_on(target, adapters, ctx), key)
            train(ctx, adapters, loss, options.schedule(), key)
        return adapters.edit()


def ablation_loss(
    request: EraseRequest, options: ConceptAblationOptions, rollout: Rollout, key: str
) -> Callable[[int], Tensor]:
    """The loss of a training step over pictures of the anchors."""
    import torch

    from erase_plugins.engine.drawn import Pictures
    from erase_plugins.engine.pools import Part, mean_squares
    from erase_plugins.engine.trajectories import ask

    concepts = request.concepts
    if options.aliases:
        concepts = tuple(with_aliases(concept, options.alias_threshold, rollout) for concept in concepts)
    pairs = [pair for concept in concepts for pair in prompt_pairs(concept, options)]
    pictures = Pictures.drawn(rollout, "anchor", [anchor for anchor, _ in pairs], key)
    rollout.check([erased for _, erased in pairs])
    erased = rollout.target.encode([prompt for _, prompt in pairs])
    phrases = all_phrases(replace(request, forget=concepts))
    holding = options.holding(rollout, request, phrases, options.templates, key)

    def loss(step: int) -> Tensor:
        states, anchor = pictures.batch(options.batch, step)
        wanted = states.predictions["noise"]
        if options.loss == "model":
            with torch.no_grad():
                wanted = ask(rollout.target, states.inputs, states.timestep, anchor, rollout.ctx)
        parts = [Part(states, erased[states.row.tolist()], wanted, 1.0)]
        if options.prior > 0:
            parts.append(Part(states, anchor, states.predictions["noise"], options.prior))
        if holding is not None:
            held, cond = holding.batch(options.keep_batch, step)
            parts.append(Part(held, cond, held.predictions["prompt"], options.keep_weight))
        return mean_squares(rollout.target, parts, rollout.ctx)

    return loss


def vanishes(concept: Concept, options: ConceptAblationOptions) -> bool:
    """Whether a style leaves its place in the templates' prompts, since nothing was named that takes it."""
    placed = not options.anchor_prompts and options.templates != ("{}",)
    return concept.kind == "style" and concept.anchor is None and placed


def anchor_of(concept: Concept, options: ConceptAblationOptions) -> str:
    """What the concept becomes: as asked, else by kind, else nothing."""
    from erase_plugins.engine.collect import guide_of

    return guide_of(concept, vanishes(concept, options)).strip()


def with_aliases(concept: Concept, threshold: float, rollout: Rollout) -> Concept:
    """The concept with the vocabulary words that mean the same among its phrasings."""
    from erase_plugins.engine.text_tuning import same_meaning

    same = same_meaning(rollout.target, (concept.text, *concept.prompts), threshold)
    if same:
        rollout.ctx.note(f"ablated with {concept.text}: {', '.join(same[:8])}")
    return replace(concept, prompts=(*concept.prompts, *same))


def prompt_pairs(concept: Concept, options: ConceptAblationOptions) -> list[tuple[str, str]]:
    """(anchor prompt, prompt with the concept) of every picture."""
    anchor = anchor_of(concept, options)
    frames: Sequence[str] = options.templates
    if options.anchor_prompts:
        frames = [text.replace("{", "").replace("}", "").replace(anchor, "{}") for text in options.anchor_prompts]
    phrasings = None if vanishes(concept, options) else _PHRASINGS.get(concept.kind)
    found = []
    for number in range(max(options.trajectories, len(frames))):
        frame = frames[number % len(frames)]
        phrases = (concept.text, *concept.prompts)
        phrase = phrases[number // len(frames) % len(phrases)]
        plain = " ".join(frame.replace("{}", anchor).split())
        if phrasings is None or not plain:
            made = frame.replace("{}", phrase)
        else:
            made = phrasings[number // len(frames) % len(phrasings)].format(p=plain, t=phrase)
        found.append((plain, made))
    return found


@contextmanager
def still_start_token(target: Target) -> Iterator[None]:
    """Inside, keys and values of the start token get no gradient (every prompt shares it)."""
    import torch

    def stop(_module: Any, _args: Any, out: Tensor) -> Tensor:
        return torch.cat([out[:, :1].detach(), out[:, 1:]], 1)

    handles = [target.module(ref).register_forward_hook(stop) for ref in target.modules("cross_kv")]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@hookimpl
def erase_methods() -> list[ConceptAblation]:
    return [ConceptAblation()]
