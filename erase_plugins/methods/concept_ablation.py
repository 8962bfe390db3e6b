"""Concept Ablation (Kumari et al., ICCV 2023, arXiv 2303.13516): the concept's prompts are answered as an anchor's.

    model loss:  |eps(x_t, t, c_target) - sg eps(x_t, t, c_anchor)|^2
    noise loss:  |eps(x_t, t, c_target) - noise|^2

x_t are noised pictures that the base model draws for anchor prompts; the anchor pass uses the weights as they are at
the moment. ``prior`` adds the ordinary noise loss on anchor prompts. Keys and values of the start token are detached.

Differs from the official code:
    - pictures are drawn once as latents and noised anew in every step (the official code stores decoded pictures and
      encodes them again), so there is no resizing augmentation and no valid-picture mask;
    - anchor prompts are scenes of our own around the anchor (--to, else by kind, else the scene alone), thirty to forty
      by kind, or given with ``anchor_prompts``; no language model writes them, nothing is retrieved;
    - learning rates are stated as used: the published 2e-6 and 4e-6 are multiplied by batch size (8), and by 2 with
      prior preservation, before the first step;
    - LoRA by default (the official code trains full weights only). It starts as the LoRA layer of diffusers does, on
      toy-sized models narrower, and has a rate at which it removes about as much in as many steps as full weights do;
    - ``parameters=full`` as published, but AdamW's decay pulls the change to 0 and not the weights (a shrinking by 2e-5
      over 100 steps); ablating memorised pictures is not offered;
    - what must stay can be held (on for toy-sized models and with --keep);
    - on toy-sized models words that the text encoder takes for the same become the anchor too (``aliases``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from erase_plugins.engine.erasing import all_phrases
from erase_plugins.engine.optimizers import OPTIMIZERS
from erase_plugins.errors import RequestError
from erase_plugins.families.model import CROSS_ATTENTION
from erase_plugins.hints import ANOTHER_TO, Hint
from erase_plugins.hookspecs import hookimpl
from erase_plugins.options import option
from erase_plugins.training import Cost, TrainedMethod, TrainingOptions, TrainingRun
from erase_plugins.training.options import StartOptions, check_templates
from erase_plugins.types import Concept, EraseRequest

if TYPE_CHECKING:
    from torch import Tensor

    from erase_plugins.families.base import Conditioning, ModuleRef, Target, TargetInfo
    from erase_plugins.training.image_pool import Pictures


#: train set -> group of the family
GROUPS = {"cross": "cross_kv", "attn": "attn", "all": "denoiser", "text": "text_side"}
#: how the target's prompt is made of the anchor's, by kind; objects replace the anchor inside the prompt
_PHRASINGS = {
    "style": ("{p}, in the style of {t}", "in {t}'s style, {p}", "in {t}'s style, {p}"),
    "explicit": ("{t}, {p}", "in {t} style, {p}", "{p}, {t}"),
}


@dataclass(frozen=True)
class ConceptAblationOptions(StartOptions, TrainingOptions):
    """Options of Concept Ablation."""

    presets = "../presets/concept-ablation.toml"

    start: str = option("rank", "first values of the LoRA's down factors: rank (deviation 1/rank), kaiming (uniform "
                        "within 1/sqrt(width)), width (deviation 1/sqrt(width))",
                        choices=("rank", "kaiming", "width"))  # fmt: skip
    train: str = option("cross", "modules: cross (keys and values of cross-attention), attn, all, text (flow "
                        "transformers: keys and values of the text and the layers that take it in)",
                        choices=tuple(GROUPS))  # fmt: skip
    loss: str = option("model", "model: as the anchor's prediction; noise: the true noise", choices=("model", "noise"))
    prior: float = option(0.0, "weight of the noise loss on anchor prompts", low=0.0)
    iterations: int = option(100, "training steps", low=1)
    batch: int = option(8, "states per training step", low=1, high=1024)
    optimizer: str = option("adamw", "optimizer", choices=OPTIMIZERS)
    keep_words: int = option(0, "vocabulary words to hold in place, half of them the closest", low=0, high=10_000)
    guidance: float = option(6.0, "classifier-free guidance of the pictures", low=0.0)
    steps: int = option(25, "sampler steps of a picture", low=1, high=1000)
    trajectories: int = option(200, "pictures drawn for each concept", low=1)
    templates: tuple[str, ...] = option(
        ("{}", "a {}", "a picture of a {}", "a photo of a {}", "a {} on a table", "a close-up of a {}"),
        "anchor prompts; {} is the anchor",
    )
    anchor_prompts: tuple[str, ...] = option((), "anchor prompts in place of the templates, each with the anchor in it")
    appended: bool = option(
        True,
        "a style or explicit concept is written before or behind the anchor's prompt (published), not in its place",
    )
    avoid: bool = option(False, "anchor pictures are drawn with the concept as negative prompt")
    aliases: bool = option(False, "erase words that mean the same in the encoder's vocabulary")
    alias_threshold: float = option(0.9, "closeness from which a word counts as an alias", low=0.0, high=1.0)


class ConceptAblation(TrainedMethod):
    """Distils an anchor concept into the prompts of another; gentle on neighbours."""

    id = "concept-ablation"
    title = "Concept Ablation"
    paper = "https://arxiv.org/abs/2303.13516"
    summary = "teaches the concept's prompts to draw an anchor instead, on pictures of the anchor"
    needs = frozenset({"denoiser", "text"})
    kinds = frozenset({"object", "style", "person", "explicit"})
    produces = frozenset({"lowrank", "dense"})
    Options = ConceptAblationOptions
    recomputes = True
    work_files: ClassVar[tuple[str, ...]] = ("states-*.safetensors", "pictures-*.safetensors")
    contract_options: ClassVar[dict[str, Any]] = {**TrainedMethod.contract_options, "batch": 2, "prior": 0.5}

    def settle(
        self, options: ConceptAblationOptions, request: EraseRequest, info: TargetInfo
    ) -> ConceptAblationOptions:
        check_templates(options.templates)
        for concept in request.concepts:
            anchor = anchor_of(concept, options)
            if anchor.lower() == concept.text.strip().lower():
                raise RequestError(f"'{concept.text}' would become itself; give ", ANOTHER_TO)
            lacking = [text for text in options.anchor_prompts if anchor not in text]
            if lacking:
                raise RequestError(f"anchor prompt '{lacking[0]}' lacks the anchor '{anchor}'; name it in every prompt")
            if options.anchor_prompts and not anchor:
                raise RequestError("anchor_prompts needs ", Hint("to"), ": which word in them becomes the concept?")
        return replace(options, harvest=min(options.harvest, options.steps))

    def modules(self, info: TargetInfo, options: ConceptAblationOptions) -> list[ModuleRef]:
        return [ref for ref in info.modules(GROUPS[options.train]) if ref.kind in ("linear", "conv")]

    def cost(self, request: EraseRequest, options: ConceptAblationOptions) -> Cost:
        drawn, kept = len(request.concepts) * options.trajectories, options.kept(request)
        asked = options.iterations * options.batch if options.loss == "model" else 0
        batch = options.batch * (1 + (options.prior > 0)) + options.keep_batch * (kept > 0)
        return Cost(2.0 * options.steps * (drawn + kept) + asked, batch, drawn + kept * options.harvest)

    def notes(self, request: EraseRequest, options: ConceptAblationOptions) -> list[str]:
        return [f"{item.text} -> {anchor_of(item, options) or 'no word'}" for item in request.concepts[:20]]

    def prepare(self, run: TrainingRun) -> tuple[Pictures, Conditioning]:
        """Pictures of the anchors, and the prompts of the concepts in their place."""
        from erase_plugins.training.image_pool import Pictures

        options, concepts = run.options, run.request.concepts
        run.stack.enter_context(still_start_token(run.target))
        if options.aliases:
            concepts = tuple(with_aliases(concept, options.alias_threshold, run) for concept in concepts)
            run.phrases = all_phrases(replace(run.request, forget=concepts))
        pairs = [pair for concept in concepts for pair in prompt_pairs(concept, options)]
        away = [", ".join((item.text, *item.prompts)) for item in concepts for _ in prompt_pairs(item, options)]
        pictures = Pictures.drawn(
            run.rollout, "anchor", [anchor for anchor, _ in pairs], run.key, away if options.avoid else None
        )
        run.rollout.check([erased for _, erased in pairs])
        return pictures, run.target.encode([erased for _, erased in pairs])

    def loss(self, run: TrainingRun, step: int) -> Tensor:
        import torch

        from erase_plugins.engine.trajectories import ask

        options, (pictures, erased) = run.options, run.state
        states, anchor = pictures.batch(options.batch, step)
        noise = wanted = states.predictions["noise"]
        if options.loss == "model":
            with torch.no_grad():
                wanted = ask(run.target, states.inputs, states.timestep, anchor, run.ctx)
        parts = [(states, erased[states.row.tolist()], wanted, 1.0)]
        if options.prior > 0:
            parts.append((states, anchor, noise, options.prior))
        return run.mean_squares([*parts, *run.retain(step)])


def vanishes(concept: Concept, options: ConceptAblationOptions) -> bool:
    """Whether a style leaves its place in the templates' prompts, since nothing was named that takes it."""
    placed = not options.anchor_prompts and not options.appended
    return concept.kind == "style" and concept.anchor is None and placed


def anchor_of(concept: Concept, options: ConceptAblationOptions) -> str:
    """What the concept becomes: as asked, else by kind, else nothing."""
    from erase_plugins.engine.collect import guide_of

    return guide_of(concept, vanishes(concept, options)).strip()


def with_aliases(concept: Concept, threshold: float, run: TrainingRun) -> Concept:
    """The concept with the vocabulary words that mean the same among its phrasings."""
    from erase_plugins.training.text_tuning import same_meaning

    same = same_meaning(run.target, (concept.text, *concept.prompts), threshold)
    if same:
        run.ctx.note(f"ablated with {concept.text}: {', '.join(same[:8])}")
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
        plain = " ".join(frame.replace("{}", anchor).split()).lstrip(" ,")
        if phrasings is None or not plain:
            made = frame.replace("{}", phrase)
        else:
            made = phrasings[number // len(frames) % len(phrasings)].format(p=plain, t=phrase)
        found.append((plain, made))
    return found


@contextmanager
def still_start_token(target: Target) -> Iterator[None]:
    """Inside, keys and values of the start token get no gradient (every prompt shares it).

    In joint attention they depend on the whole prompt, and T5 has no start token: nothing is held there.
    """
    import torch

    if not target.info.supports(CROSS_ATTENTION):
        yield
        return

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
