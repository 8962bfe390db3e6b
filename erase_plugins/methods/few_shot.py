"""Few-shot unlearning of the text encoder (Fuchi and Takagi, BMVC 2024, arXiv 2405.07288).

A few pictures of the concept with captions that name it; the denoiser is frozen and part of the text encoder climbs the
denoising loss, until the words do not lead to the pictures any more:

    L = - mean |eps(z_t, t, T(caption)) - eps|^2

Where anchor pictures are given (or --to names something to draw them from), the captions learn to mean those instead:
their denoising loss falls.

Differs from the official code (``main.py``, ``utils.py``):
    - the trained set is the one the paper names: every feed-forward layer and the attention of the last layer that the
      denoiser reads. The code of 2024 froze nothing, because of a misspelt attribute;
    - the loss of every picture is compared with the base model's at the same noise, and climbs to ``limit`` times that
      and no further; ``limit=0`` is the published unbounded climb;
    - the states of other prompts are held, the empty one always; ``keep_weight=0`` holds nothing;
    - without files the base model draws the pictures itself; the official data-free mode cannot run;
    - on toy-sized models words that the text encoder takes for the same are forgotten with the concept (``aliases``);
    - LoRA by default, biases only with ``parameters=full``; a fixed number of steps and a seed; Adam's usual constants.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from erase_plugins.engine.prompt_templates import CAPTIONS
from erase_plugins.errors import RequestError, Unsupported
from erase_plugins.hookspecs import hookimpl
from erase_plugins.options import option, resolve
from erase_plugins.training import Cost, LoopOptions, TrainedMethod, TrainingRun, WeightOptions
from erase_plugins.types import Concept, EditPlan, EraseRequest

if TYPE_CHECKING:
    from torch import Tensor

    from erase_plugins.families.base import ModuleRef, TargetInfo
    from erase_plugins.training.text_tuning import HeldStates


#: rows of the noise schedule; pictures meet all of them
_LEVELS = 1000


@dataclass(frozen=True)
class FewShotOptions(LoopOptions, WeightOptions):
    """Options of few-shot unlearning."""

    presets = "../presets/few-shot.toml"

    lr: float | None = option(5e-4, "learning rate; none picks it by parameters and model size", low=0.0, high=1.0)
    rank: int = option(16, "LoRA rank; alpha equals rank", low=1, high=1024)
    iterations: int = option(10, "training steps", low=1)
    batch: int = option(2, "pictures per training step", low=1, high=1024)
    checkpoint_every: int = option(10, "training steps between checkpoints", low=1)
    scope: str = option(
        "mlp-final-attn", "what is trained: feed-forward layers, attention, both, or the last layer's attention",
        choices=("mlp-final-attn", "mlp", "attn", "mlp-attn"),
    )  # fmt: skip
    pictures: tuple[str, ...] = option((), "picture files of the concept, comma separated; none: the model draws them")
    anchor_pictures: tuple[str, ...] = option((), "picture files of what the concept becomes instead")
    anchor_weight: float = option(1.0, "weight of the anchor pictures", low=0.0)
    captions: tuple[str, ...] = option((), "prompts that name the concept as {}; none: by kind")
    draw: int = option(4, "pictures that the base model draws of each concept without files", low=1, high=64)
    limit: float = option(1.5, "how far the loss climbs, in multiples of the base model's; 0: no bound", low=0.0,
                          searched=(1.2, 4.0))  # fmt: skip
    aliases: bool = option(False, "forget words that mean the same in the encoder's vocabulary",
                           searched=(False, True))  # fmt: skip
    alias_threshold: float = option(0.9, "closeness from which a word counts as an alias", low=0.0, high=1.0)
    keep_words: int = option(32, "vocabulary words whose states are held", low=0, high=10_000)
    keep_weight: float = option(1.0, "weight of the held states", low=0.0)
    keep_batch: int = option(16, "held prompts per training step", low=1, high=1024)
    near: float = option(0.8, "closeness to the concept from which a word is not held", low=0.0, high=1.0)
    steps: int = option(50, "sampler steps of drawn pictures", low=1, high=1000)
    guidance: float = option(7.5, "classifier-free guidance of drawn pictures", low=0.0)
    sampler: str = option("ddim", "sampler of drawn pictures", choices=("ddim", "euler"))


class FewShot(TrainedMethod):
    """Text encoder unlearning from a handful of pictures, in seconds."""

    id = "few-shot"
    title = "Few-shot unlearning of the text encoder"
    paper = "https://arxiv.org/abs/2405.07288"
    summary = "a few pictures of the concept, a few steps; only the text encoder changes, LoRA or full weights"
    kinds = frozenset({"object", "style", "person"})
    produces = frozenset({"lowrank", "dense"})
    Options = FewShotOptions
    recomputes = True
    work_files: ClassVar[tuple[str, ...]] = ("pictures.safetensors",)
    contract_options: ClassVar[dict[str, Any]] = {
        "iterations": 3, "batch": 2, "draw": 2, "steps": 3, "keep_words": 2, "keep_batch": 2, "rank": 4,
        "checkpoint_every": 1,
    }  # fmt: skip

    def settle(self, options: FewShotOptions, request: EraseRequest, info: TargetInfo) -> FewShotOptions:
        from erase_plugins.training.image_pool import check_pictures

        odd = [concept for concept in request.concepts if concept.kind not in FewShot.kinds]
        if odd:
            raise Unsupported(
                f"few-shot learns what a few pictures show, which does not cover {odd[0].kind} content; use esd or trce"
            )
        bad = [text for text in options.captions if "{}" not in text]
        if bad:
            raise RequestError(f"caption '{bad[0]}' has no {{}} for the concept")
        if info.prediction not in ("epsilon", "v_prediction"):
            raise Unsupported(f"few-shot trains on epsilon or v_prediction models, {info.model} uses {info.prediction}")
        if len(request.concepts) > 1 and (options.pictures or options.anchor_pictures):
            raise RequestError("pictures were given for several concepts at once; erase one concept per run")
        for concept in request.concepts:
            check_pictures(concept.images or options.pictures, "pictures")
        check_pictures(options.anchor_pictures, "anchor_pictures")
        return options

    def plan(self, request: EraseRequest, info: TargetInfo) -> EditPlan:
        """The plan; it and the manifest have the names of files, not where they lie."""
        plan = super().plan(request, info)
        names = {
            name: tuple(Path(file).name for file in plan.options[name]) for name in ("pictures", "anchor_pictures")
        }
        return replace(plan, options={**plan.options, **names})

    def modules(self, info: TargetInfo, options: FewShotOptions) -> Sequence[ModuleRef]:
        from erase_plugins.training.text_tuning import text_refs

        return text_refs(info, options.scope)

    def cost(self, request: EraseRequest, options: FewShotOptions) -> Cost:
        drawn = len(_without_files(request, options))
        anchored = sum(bool(item.anchor) and not options.anchor_pictures for item in request.concepts)
        forwards = 2.0 * options.steps * options.draw * (drawn + anchored) + options.iterations * options.batch
        held = options.keep_batch * (options.keep_weight > 0 and options.keep_words > 0)
        prompts = 3.0 * options.iterations * (options.batch + held) + options.keep_words
        texts = options.batch + (options.keep_batch + 1 if options.keep_weight > 0 else 0)
        return Cost(forwards, options.batch, options.draw * len(request.concepts), prompts, texts)

    def notes(self, request: EraseRequest, options: FewShotOptions) -> Sequence[str]:
        drawn = [concept.text for concept in _without_files(request, options)]
        return (f"the base model draws {options.draw} pictures of {', '.join(drawn[:5])}",) if drawn else ()

    def prepare(self, run: TrainingRun) -> _Work:
        return _Work(run)

    def retain(self, run: TrainingRun) -> None:
        return None  # text states are held instead

    def loss(self, run: TrainingRun, step: int) -> Tensor:
        return run.state.loss(step)


def _without_files(request: EraseRequest, options: FewShotOptions) -> list[Concept]:
    """Concepts whose pictures the base model draws."""
    return [concept for concept in request.concepts if not (concept.images or options.pictures)]


class _Work:
    """The loss of a training step, over pictures and captions."""

    def __init__(self, run: TrainingRun) -> None:
        from erase_plugins.training.text_tuning import same_meaning

        options, request, target, ctx = run.options, run.request, run.target, run.ctx
        self.options, self.target, self.adapters, self.ctx = options, target, run.adapters, ctx
        self.templates = options.captions or CAPTIONS.get(request.concepts[0].kind, CAPTIONS["object"])
        self.phrases = []
        for concept in request.concepts:
            named = (concept.text, *concept.prompts)
            same = same_meaning(target, named, options.alias_threshold) if options.aliases else ()
            if same:
                ctx.note(f"forgotten with {concept.text}: {', '.join(same[:8])}")
            self.phrases.append((*named, *same))
        self.captions = [[t.format(phrase) for t in self.templates for phrase in some] for some in self.phrases]
        self._check(request)
        self.held = self._held(request)
        self.scheduler = target.scheduler(_LEVELS)
        files = resolve(FewShotOptions, request.options)
        self.shown, self.anchors = self._latents(request, files, run.key)
        #: (concept, picture) of every picture
        self.places = [(n, k) for n, latents in enumerate(self.shown) for k in range(len(latents))]

    def _check(self, request: EraseRequest) -> None:
        """Encodes all captions while the text encoder is the teacher's; refuses unusable ones."""
        for concept, captions in zip(request.concepts, self.captions, strict=True):
            if self.target.encode([concept.text]).last[0] < 1:
                raise RequestError(
                    f"'{concept.text}' has no content tokens for this text encoder; name the concept in words"
                )
            cond = self.target.encode(captions)
            cut = [text for text, last in zip(captions, cond.last, strict=True) if last >= self.target.info.tokens - 2]
            if cut:
                raise RequestError(f"'{cut[0][:60]}' does not fit into the text encoder; use a shorter name")

    def _held(self, request: EraseRequest) -> HeldStates | None:
        from erase_plugins.training.text_tuning import HeldStates

        options = self.options
        if options.keep_weight == 0:
            return None
        erased = [phrase for some in self.phrases for phrase in some]
        held = HeldStates.of(self.target, erased, request, options.keep_words, options.near, self.templates, self.ctx)
        held.prepare()
        return held

    def _latents(self, request: EraseRequest, files: FewShotOptions, key: str) -> tuple[list[Tensor], list[Tensor]]:
        """Clean latents of every concept and of its anchor (none: empty)."""
        from erase_plugins.training.image_pool import drawn_latents, file_latents

        options, target = self.options, self.target

        def drawn(prompts: Sequence[str], name: str) -> Tensor:
            self.ctx.step(0, options.iterations)
            return drawn_latents(
                target, prompts, options.steps, options.guidance, options.sampler, self.ctx, name,
                lambda: self.ctx.step(0, options.iterations),
            )  # fmt: skip

        def make() -> dict[str, Tensor]:
            made = {}
            for n, concept in enumerate(request.concepts):
                named = concept.images or files.pictures
                prompts = [t.format(concept.text) for t in self.templates] * options.draw
                name = f"shown {n}"
                made[name] = (
                    file_latents(target, named, self.ctx, name) if named else drawn(prompts[: options.draw], name)
                )
                if files.anchor_pictures:
                    made[f"anchor {n}"] = file_latents(target, files.anchor_pictures, self.ctx, f"anchor {n}")
                elif concept.anchor:
                    made[f"anchor {n}"] = drawn([concept.anchor] * options.draw, f"anchor {n}")
            return made

        with self.adapters.disabled():
            found = self.ctx.stash("pictures", key, make)
        many = range(len(request.concepts))
        empty = next(iter(found.values()))[:0]
        shown, anchors = (
            [found.get(f"{what} {n}", empty).to(target.device) for n in many] for what in ("shown", "anchor")
        )
        return shown, anchors

    def loss(self, step: int) -> Tensor:
        """Climb on the concept's pictures (and fall on the anchor's), everything else held."""
        import torch

        from erase_plugins.engine.loop import shuffled

        options = self.options
        draw = self.ctx.generator(f"draw {step}")
        rows = shuffled(self.ctx, "pictures", len(self.places), options.batch, step).tolist()
        picked = [self.places[row] for row in rows]
        captions = [self._choose(self.captions[n], draw) for n, _ in picked]
        ratio = self._ratio(torch.stack([self.shown[n][k] for n, k in picked]), captions, draw)
        total = torch.relu(options.limit - ratio).mean() if options.limit else -ratio.mean()
        anchors = [self._choose(self.anchors[n], draw) for n, _ in picked if len(self.anchors[n])]
        if anchors:
            total = total + options.anchor_weight * self._ratio(torch.stack(anchors), captions, draw).mean()
        if self.held is not None:
            total = total + options.keep_weight * self.held.loss(options.keep_batch, step)
        return total

    def _choose(self, items: Any, draw: Any) -> Any:
        import torch

        return items[int(torch.randint(len(items), (1,), generator=draw))]

    def _ratio(self, latents: Tensor, captions: Sequence[str], draw: Any) -> Tensor:
        """Denoising loss of each picture under its caption, as a multiple of the base model's (n,)."""
        import torch

        from erase_plugins.engine.trajectories import ask

        count, device = len(latents), latents.device
        # one time per equal part of the schedule: all noise levels in every batch
        times = ((torch.arange(count) + torch.rand(count, generator=draw)) * _LEVELS / count).long().to(device)
        noise = torch.randn(latents.shape, generator=draw).to(device)
        inputs = self.scheduler.add_noise(latents, noise, times)
        velocity = self.target.info.prediction == "v_prediction"
        wanted = self.scheduler.get_velocity(latents, noise, times) if velocity else noise
        live = self.target.encode_live(self.target.tokens(captions))
        now = (ask(self.target, inputs, times, live, self.ctx) - wanted).square().mean((1, 2, 3))
        with torch.no_grad():
            before = ask(self.target, inputs, times, self.target.encode(captions), self.ctx)
        return now / (before - wanted).square().mean((1, 2, 3)).clamp_min(1e-8)


@hookimpl
def erase_methods() -> list[FewShot]:
    return [FewShot()]
