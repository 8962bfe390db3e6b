"""AdvUnlearn: adversarial unlearning of the text encoder (Zhang et al., NeurIPS 2024, arXiv 2405.15234).

Bilevel. Inside, a learned prefix of token embeddings makes the model answer as before,

    min over delta of  mean (eps(z_t, t, T([delta] c)) - eps*(z_t, t, c))^2,

outside, the text encoder T is trained to erase under that prefix while other prompts keep their answers:

    y = eps*(null) - eta [ eps*(c) - eps*(null) ]
    L = mean (eps(z_t, t, T([delta] c)) - y)^2 + gamma * mean (eps(z_r, t, T(r)) - eps*(z_r, t, r))^2.

gamma is ``keep_weight``, the prompts r are vocabulary words that mean something else (``keep_words``).

Differs from the official code (``train-scripts/AdvUnlearn.py``):
    - the denoiser and the first text encoder never change, so all states and teacher answers come from trajectories
      harvested once; the official code samples anew for every attack step, which is nine tenths of its work;
    - the whole concept follows the prefix (the official code counts words, not tokens, and loses the rest of "nudity"),
      the gradient is cleared between attack steps, the last attack step counts, the fast attack takes a real step;
      state and timestep belong together; the empty prompt is always retained;
    - LoRA by default; ``parameters=full`` trains weights and biases of linear layers, not the layer norms;
    - ``retain=states`` holds the text states themselves, which needs no denoiser at all (on for toy-sized models);
    - on toy-sized models words that the text encoder takes for the same are erased too (``aliases``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from erase_plugins.engine.erasing import check_no_anchor
from erase_plugins.errors import RequestError
from erase_plugins.hookspecs import hookimpl
from erase_plugins.options import option
from erase_plugins.training import Cost, TrainedMethod, TrainingOptions, TrainingRun
from erase_plugins.training.options import check_templates
from erase_plugins.types import EraseRequest

if TYPE_CHECKING:
    from torch import Tensor

    from erase_plugins.engine.trajectories import States
    from erase_plugins.families.base import Conditioning, ModuleRef, TargetInfo, Tokens

    Source = Callable[[int, int], tuple[States, Conditioning]]


#: batch numbers of the inner attack start here, away from those of the training steps
_INNER = 1 << 20
#: denoiser sets -> module group; "text" is the text encoder
GROUPS = {"x": "cross_attn", "u": "non_cross", "all": "denoiser"}


@dataclass(frozen=True)
class AdvUnlearnOptions(TrainingOptions):
    """Options of AdvUnlearn."""

    presets = "../presets/advunlearn.toml"

    lr: float | None = option(1e-4, "learning rate; none picks it by parameters and model size", low=0.0, high=1.0)
    rank: int = option(32, "LoRA rank; alpha equals rank", low=1, high=1024)
    keep_words: int = option(237, "retained words, half of them the closest to the concept", low=0, high=10_000)
    keep_weight: float = option(0.5, "gamma, weight of what is retained", low=0.0)
    keep_batch: int = option(5, "retained prompts per training step", low=1, high=1024)
    train: str = option(
        "text", "text encoder, or of the denoiser: x cross-attention, u all but it, all",
        choices=("text", *GROUPS),
    )  # fmt: skip
    layers: int | None = option(None, "train only so many first layers of the text encoder; none: all", low=1)
    eta: float = option(1.0, "negative guidance", low=0.0, high=100.0, searched=(0.5, 3.0))
    attack: str = option(
        "multi", "inner attack: multi steps of Adam, one fast signed step, or off", choices=("multi", "fast", "off")
    )
    attack_steps: int = option(30, "attack steps per training step (multi)", low=0)
    attack_lr: float = option(1e-3, "step size of the attack", low=0.0, high=10.0)
    attack_rows: int = option(1, "learned token embeddings in front of the prompt", low=1)
    attack_batch: int = option(1, "states per attack step", low=1, high=1024)
    warmup: int = option(200, "training steps before the attack starts", low=0)
    retain: str = option(
        "predictions", "what is compared for retained prompts: the denoiser's predictions, or text states",
        choices=("predictions", "states"),
    )  # fmt: skip
    templates: tuple[str, ...] = option(("{}",), "prompts trained on; {} is the concept")
    keep_templates: tuple[str, ...] = option(("a photo of {}",), "prompts that retained words stand in; {} is the word")
    rollout: str = option(
        "teacher", "states: from trajectories harvested once (teacher), or a fresh one for every state, as published",
        choices=("teacher", "fresh"),
    )  # fmt: skip
    aliases: bool = option(False, "erase words that mean the same in the encoder's vocabulary")
    alias_threshold: float = option(0.9, "closeness from which a word counts as an alias", low=0.0, high=1.0)

    @property
    def on_text(self) -> bool:
        """Whether the text encoder is trained."""
        return self.train == "text"

    @property
    def inner_steps(self) -> int:
        """Attack steps per training step."""
        return {"multi": self.attack_steps, "fast": 1, "off": 0}[self.attack]


class AdvUnlearn(TrainedMethod):
    """Adversarial training of the text encoder, or of the denoiser; robust against learned prompts."""

    id = "advunlearn"
    title = "Defensive unlearning with adversarial training"
    paper = "https://arxiv.org/abs/2405.15234"
    summary = "trains the text encoder against a prefix that is learned to bring the concept back; LoRA or full weights"
    kinds = frozenset({"object", "style", "person", "explicit"})
    produces = frozenset({"lowrank", "dense"})
    Options = AdvUnlearnOptions
    recomputes = True
    contract_options: ClassVar[dict[str, Any]] = {
        **TrainedMethod.contract_options, "rank": 4, "warmup": 1, "attack_steps": 2,
    }  # fmt: skip

    def settle(self, options: AdvUnlearnOptions, request: EraseRequest, info: TargetInfo) -> AdvUnlearnOptions:
        if not options.on_text and "retain" not in request.options:
            options = replace(options, retain="predictions")
        if not options.on_text and options.retain == "states":
            raise RequestError("retain=states holds the text encoder, which does not change here; use predictions")
        check_templates(options.templates)
        check_templates(options.keep_templates)
        check_no_anchor(request)
        if options.attack != "off" and options.attack_rows + 3 > info.tokens:
            raise RequestError(f"attack_rows={options.attack_rows} leaves no room for a prompt in {info.tokens} tokens")
        return replace(options, harvest=min(options.harvest, options.steps))

    def modules(self, info: TargetInfo, options: AdvUnlearnOptions) -> Sequence[ModuleRef]:
        from erase_plugins.training.text_tuning import text_refs

        if options.on_text:
            return text_refs(info, "mlp-attn", options.layers)
        info.modules("cross_attn")  # without it the prompt does not reach the denoiser
        return [ref for ref in info.modules(GROUPS[options.train]) if ref.kind in ("linear", "conv")]

    def cost(self, request: EraseRequest, options: AdvUnlearnOptions) -> Cost:
        held = options.keep_batch + 1 if options.retain == "states" and options.keep_weight > 0 else 0
        if options.retain == "states":  # no denoiser is needed to hold those
            options = replace(options, keep_weight=0.0)
        cost = super().cost(request, options)
        inner = max(options.iterations - options.warmup, 0) * options.attack_batch * options.inner_steps
        forwards = cost.forwards + 3.0 * inner
        if options.rollout == "fresh":
            forwards = (options.iterations * cost.batch + inner) * (options.steps + 3.0) + 3.0 * inner
        return replace(cost, forwards=forwards, texts=cost.batch + held if options.on_text else 0)

    def notes(self, request: EraseRequest, options: AdvUnlearnOptions) -> Sequence[str]:
        if not options.on_text:
            return ()
        return ("only the text encoder changes: reloading the stock encoder brings the concept back",)

    def prepare(self, run: TrainingRun) -> _Work:
        return _Work(run)

    def retain(self, run: TrainingRun) -> None:
        return None  # `_Work` holds predictions or text states

    def loss(self, run: TrainingRun, step: int) -> Tensor:
        return run.state.loss(step)


class _Work:
    """The loss of a training step, over pools of teacher states."""

    def __init__(self, run: TrainingRun) -> None:
        from erase_plugins.engine.attack import Prefix
        from erase_plugins.training.text_tuning import HeldStates, same_meaning

        self.run, self.options, self.target, self.ctx = run, run.options, run.target, run.ctx
        options, request = run.options, run.request
        self.prefix = Prefix(self.target, options.attack_rows)
        run.rollout.check(run.phrases)
        if options.aliases:
            same = same_meaning(self.target, run.phrases, options.alias_threshold)
            if same:
                self.ctx.note(f"erased with {', '.join(run.phrases[:3])}: {', '.join(same[:8])}")
            run.phrases += same
        prompts = run.prompts()
        if options.attack != "off":
            self.prefix.check(self.target.tokens(list(dict.fromkeys(prompts))))
        self.erased = self._source("erase", prompts)
        self.held: HeldStates | None = None
        self.kept: Source | None = None
        if options.retain == "predictions":
            words = options.held_prompts(run.rollout, request, run.phrases, options.keep_templates)
            self.kept = self._source("keep", words) if words else None
        elif options.kept(request):
            self.held = HeldStates.of(
                self.target, run.phrases, request, options.keep_words, options.near, options.keep_templates,
                self.ctx,
            )  # fmt: skip
            self.held.prepare()

    def _source(self, name: str, prompts: Sequence[str]) -> Source:
        """Batches of teacher states by size and number."""
        if self.options.rollout == "teacher":
            return self.run.pool(name, prompts).batch

        def fresh(size: int, number: int) -> tuple[States, Conditioning]:
            pool = self.run.rollout.fresh(prompts, size, number)
            return pool.states, pool.cond[pool.states.row.tolist()]

        return fresh

    def loss(self, step: int) -> Tensor:
        """Erasing under attack, and what is retained."""
        from erase_plugins.engine.pools import mean_squares
        from erase_plugins.engine.trajectories import guided

        options = self.options
        states, cond = self.erased(options.batch, step)
        tokens = self.target.tokens(cond.prompts)
        attacked = options.attack != "off" and step >= options.warmup
        live = self.prefix.encode(tokens, self._attack(step)) if attacked else self._encode(tokens)
        seen = states.predictions
        parts = [(states, live, guided(seen["null"], seen["prompt"], -options.eta), 1.0)]
        if self.kept is not None:
            kept, held = self.kept(options.keep_batch, step)
            words = self._encode(self.target.tokens(held.prompts))
            parts.append((kept, words, kept.predictions["prompt"], options.keep_weight))
        total = mean_squares(self.target, parts, self.ctx)
        if self.held is not None:
            total = total + options.keep_weight * self.held.loss(options.keep_batch, step)
        return total

    def _encode(self, tokens: Tokens) -> Conditioning:
        """The student's encoding; the teacher's, cached, where the text encoder is not trained."""
        return self.target.encode_live(tokens) if self.options.on_text else self.target.encode(tokens.prompts)

    def _attack(self, step: int) -> Tensor:
        """The learned prefix against the student as it is now; starts at random vocabulary entries."""
        from torch.nn.functional import mse_loss

        from erase_plugins.engine.attack import Attack
        from erase_plugins.engine.trajectories import ask

        options = self.options
        encoders = list(self.target.tokens([""]).ids)
        start = self.prefix.start(encoders, self.ctx.generator(f"prefix {step}"))
        attack = Attack(start, options.attack_lr, "sign" if options.attack == "fast" else "adam")

        def guess(rows: Tensor, number: int) -> Tensor:
            states, cond = self.erased(options.attack_batch, _INNER + step * options.inner_steps + number)
            live = self.prefix.encode(self.target.tokens(cond.prompts), rows)
            out = ask(self.target, states.inputs, states.timestep, live, self.ctx)
            return mse_loss(out, states.predictions["prompt"])

        attack.run(guess, options.inner_steps)
        return attack.rows.detach()


@hookimpl
def erase_methods() -> list[AdvUnlearn]:
    return [AdvUnlearn()]
