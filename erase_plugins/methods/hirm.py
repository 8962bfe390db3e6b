"""HiRM: high-level representation misdirection (Lee, Kim and Hwang, ICLR 2026, arXiv 2602.19631).

The first block of the text encoder is trained so that what its last block makes of the concept is led astray. With
h_t the states (T, d) of the concept's prompt behind the start row,

    R:  (1/T) sum_t |h_t - c r_t|^2,  r_t random directions that stay the same,
    S:  (1/T) sum_t |h_t - s_t|^2,    s_t the untrained encoder's states of a more general prompt (``--to``).

No denoiser is asked. The change goes with every model that shares the encoder, and **statistics of closed forms made on
the untrained encoder no longer fit**.

Written from the paper's summary: its training code was not available. Differs from what is known of it:
    - h_t is what the denoiser reads (behind the last norm where there is one, all rows but the first, the pooled
      embedding too for S), so that every encoder and clip-skip is served; c counts in mean lengths of those rows, not
      in their units, and the squares are means over d;
    - a LoRA on block 0 instead of all its weights;
    - the empty prompt, what is named with --keep and ``keep_words`` words are held at their states (``keep_weight``);
      0 is the published loss, which holds nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from erase_plugins.engine.erasing import all_phrases
from erase_plugins.errors import RequestError
from erase_plugins.hookspecs import hookimpl
from erase_plugins.options import option
from erase_plugins.training import Cost, TrainedMethod, TrainingOptions, TrainingRun
from erase_plugins.types import EraseRequest

if TYPE_CHECKING:
    from torch import Tensor

    from erase_plugins.artifacts.edit import Edit
    from erase_plugins.families.base import ModuleRef, TargetInfo

#: prompts for other things that are looked at in the end, and the cosine below which they have moved
_WATCHED, _ALIKE = 101, 0.99


@dataclass(frozen=True)
class HiRMOptions(TrainingOptions):
    """Options of HiRM."""

    presets = "../presets/hirm.toml"

    lr: float | None = option(5e-5, "learning rate; none picks it by parameters and model size", low=0.0, high=1.0)
    iterations: int = option(50, "training steps", low=1)
    towards: str = option("general", "what the states become: those of a more general prompt, or random directions",
                          choices=("general", "random"))  # fmt: skip
    length: float = option(1.0, "towards=random: length of the directions, in mean lengths of rows", low=0.0)
    templates: tuple[str, ...] = option(("{}",), "prompts trained on; {} is the concept")
    keep_templates: tuple[str, ...] = option(("a photo of {}",), "prompts that retained words stand in; {} is the word")
    keep_words: int = option(100, "retained words, half of them the closest to the concept", low=0, high=10_000)
    keep_weight: float = option(0.1, "weight of what is retained", low=0.0)
    keep_batch: int = option(8, "retained prompts per training step", low=1, high=1024)
    aliases: bool = option(False, "erase words that mean the same in the encoder's vocabulary")
    alias_threshold: float = option(0.9, "closeness from which a word counts as an alias", low=0.0, high=1.0)


class HiRM(TrainedMethod):
    """Trains the first block of the text encoder against its last; seconds, no denoiser."""

    id = "hirm"
    title = "High-level representation misdirection"
    paper = "https://arxiv.org/abs/2602.19631"
    summary = "trains the first block of the text encoder to lead the concept's states astray; seconds, no denoiser"
    Options = HiRMOptions
    contract_options: ClassVar[dict[str, Any]] = {**TrainedMethod.contract_options, "rank": 4}

    def settle(self, options: HiRMOptions, request: EraseRequest, info: TargetInfo) -> Any:
        from erase_plugins.training.options import check_templates

        check_templates(options.keep_templates)
        named = [concept.text for concept in request.concepts if concept.anchor]
        if named and options.towards == "random":
            raise RequestError(f"'{named[0]}' has a guide, and towards=random leads nowhere; leave out one of them")
        return super().settle(options, request, info)

    def modules(self, info: TargetInfo, options: HiRMOptions) -> Sequence[ModuleRef]:
        from erase_plugins.training.text_tuning import text_refs

        info.modules("cross_attn")  # without it the prompt does not reach the denoiser
        return text_refs(info, "mlp-attn", 1)

    def cost(self, request: EraseRequest, options: HiRMOptions) -> Cost:
        phrases = len(options.templates) * len(all_phrases(request))
        kept = options.keep_batch + 1 if options.keep_weight > 0 else 0
        held = 3 * options.keep_words + len(request.preserve)
        trained = phrases + kept
        return Cost(0.0, 0, 0, 3.0 * options.iterations * trained + 2 * phrases + held, trained)

    def notes(self, request: EraseRequest, options: HiRMOptions) -> Sequence[str]:
        return ("only the text encoder changes: reloading the stock encoder brings the concept back",)

    def prepare(self, run: TrainingRun) -> _Work:
        return _Work(run)

    def retain(self, run: TrainingRun) -> None:
        return None  # `_Work` holds text states

    def finish(self, run: TrainingRun) -> Edit:
        run.state.tell(run)
        return super().finish(run)

    def loss(self, run: TrainingRun, step: int) -> Tensor:
        return run.state.loss(step)


class _Work:
    """What the states of the concepts' prompts become, and the loss of a step."""

    def __init__(self, run: TrainingRun) -> None:
        import torch

        from erase_plugins.engine.collect import guide_of
        from erase_plugins.training.text_tuning import HeldStates, same_meaning

        options, target = run.options, run.target
        pairs = []
        for concept in run.request.concepts:
            phrases = [concept.text, *concept.prompts]
            if options.aliases:
                phrases += same_meaning(target, phrases, options.alias_threshold)
            run.phrases += [phrase for phrase in phrases if phrase not in run.phrases]
            pairs += [(text.format(phrase), text.format(guide_of(concept)))
                      for text in options.templates for phrase in phrases]  # fmt: skip
        self.options, self.target = options, target
        self.tokens = target.tokens([erased for erased, _ in pairs])
        goal = target.encode([" ".join(general.split()) for _, general in pairs])
        self.goal, self.pooled = goal.embeds[:, 1:].float(), goal.pooled
        if options.towards == "random":
            size = self.goal.norm(dim=-1).mean() * options.length
            drawn = torch.randn(self.goal.shape[1:], generator=run.ctx.generator("directions")).to(self.goal.device)
            self.goal = (size * drawn / drawn.norm(dim=-1, keepdim=True)).expand_as(self.goal)
            self.pooled = None
        self.held = HeldStates.of(
            target, run.phrases, run.request, options.keep_words, options.near, options.keep_templates, run.ctx
        )
        self.held.prepare()

    def loss(self, step: int) -> Tensor:
        """Misdirection of all prompts at once, and what is retained."""
        live = self.target.encode_live(self.tokens)
        total: Tensor = (live.embeds[:, 1:].float() - self.goal).square().mean()
        if self.pooled is not None and live.pooled is not None:
            total = total + (live.pooled - self.pooled).square().mean()
        if self.options.keep_weight > 0:
            total = total + self.options.keep_weight * self.held.loss(self.options.keep_batch, step)
        return total

    def tell(self, run: TrainingRun) -> None:
        """Counts how alike states of other prompts have stayed, and warns where they have not."""
        import torch

        prompts = list(self.held.prompts[:_WATCHED])
        with torch.no_grad():
            now, before = self.target.encode_live(self.target.tokens(prompts)), self.target.encode(prompts)
            alike = float(torch.cosine_similarity(now.embeds[:, 1:], before.embeds[:, 1:], dim=-1).mean())
        run.ctx.count("other_prompts_cosine", round(alike, 4))
        if alike < _ALIKE:
            run.ctx.warn(
                f"prompts for other things moved (cosine {alike:.3f} to their states before, below {_ALIKE}); raise "
                "keep_weight and keep_words, or lower lr, and measure what is kept"
            )


@hookimpl
def erase_methods() -> list[HiRM]:
    return [HiRM()]
