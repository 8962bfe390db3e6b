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

from erase_plugins.engine.erasing import all_phrases, check_no_anchor, resolved
from erase_plugins.engine.training_options import TrainingOptions, check_templates, revive
from erase_plugins.errors import RequestError
from erase_plugins.hookspecs import hookimpl
from erase_plugins.options import as_dict, option
from erase_plugins.types import EditPlan, EraseRequest

if TYPE_CHECKING:
    from torch import Tensor

    from erase_plugins.artifacts.edit import Edit
    from erase_plugins.engine.context import RunContext
    from erase_plugins.engine.pools import Rollout
    from erase_plugins.engine.trajectories import States
    from erase_plugins.families.base import Conditioning, ModuleRef, Target, TargetInfo, Tokens

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
    eta: float = option(1.0, "negative guidance", low=0.0, high=100.0)
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
    templates: tuple[str, ...] = option(
        ("{}",), "prompts trained on; {} is the concept",
    )  # fmt: skip
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


class AdvUnlearn:
    """Adversarial training of the text encoder, or of the denoiser; robust against learned prompts."""

    id = "advunlearn"
    title = "Defensive unlearning with adversarial training"
    paper = "https://arxiv.org/abs/2405.15234"
    summary = "trains the text encoder against a prefix that is learned to bring the concept back; LoRA or full weights"
    families = frozenset({"sd1", "sdxl"})
    kinds = frozenset({"object", "style", "person", "explicit"})
    produces = frozenset({"lowrank", "dense", "bias"})
    needs = frozenset({"diffusers"})
    Options = AdvUnlearnOptions
    work_files: ClassVar[tuple[str, ...]] = ("states-*.safetensors",)
    contract_options: ClassVar[dict[str, Any]] = {
        "iterations": 3, "trajectories": 2, "harvest": 2, "steps": 4, "keep_words": 2, "keep_batch": 1, "rank": 4,
        "warmup": 1, "attack_steps": 2, "checkpoint_every": 1,
    }  # fmt: skip

    def plan(self, request: EraseRequest, info: TargetInfo) -> EditPlan:
        from erase_plugins.engine import training_plan as cost

        options = self._resolve(request, info)
        cost.check_trainable(self.id, info)
        refs = self._refs(options, info)
        if options.attack != "off" and options.attack_rows + 3 > info.tokens:
            raise RequestError(f"attack_rows={options.attack_rows} leaves no room for a prompt in {info.tokens} tokens")
        kept = options.kept(request) if options.retain == "predictions" else 0
        prompts = len(options.templates) * sum(1 + len(concept.prompts) for concept in request.concepts)
        rolled = prompts * -(-options.trajectories // prompts)
        inner = max(options.iterations - options.warmup, 0) * options.attack_batch * options.inner_steps
        forwards = 2.0 * options.steps * (rolled + kept) + 3.0 * inner
        if options.rollout == "fresh":
            drawn = options.iterations * (options.batch + options.keep_batch * (kept > 0)) + inner
            forwards = drawn * (options.steps + 3.0) + 3.0 * inner
        notes: tuple[str, ...] = ()
        if options.on_text:
            notes = ("only the text encoder changes: reloading the stock encoder brings the concept back",)
        return EditPlan(
            request=request,
            options=as_dict(options),
            modules=tuple(f"{ref.component}.{ref.path}" for ref in refs),
            steps=options.iterations,
            notes=notes,
            **cost.estimate(
                info, request, cost.trainable(refs, options.lora_rank),
                forwards=forwards, iterations=options.iterations,
                batch=options.batch + options.keep_batch * (kept > 0), states=(rolled + kept) * options.harvest,
            ),
        )  # fmt: skip

    def _refs(self, options: AdvUnlearnOptions, info: TargetInfo) -> tuple[ModuleRef, ...]:
        from erase_plugins.engine.text_tuning import text_refs

        if options.on_text:
            return text_refs(info, "mlp-attn", options.layers)
        info.modules("cross_attn")  # without it the prompt does not reach the denoiser
        return tuple(ref for ref in info.modules(GROUPS[options.train]) if ref.kind in ("linear", "conv"))

    def _resolve(self, request: EraseRequest, info: TargetInfo) -> AdvUnlearnOptions:
        given = dict(request.options)
        options: AdvUnlearnOptions = resolved(AdvUnlearnOptions, replace(request, options=given), info)
        if not options.on_text and "retain" not in given:
            options = replace(options, retain="predictions")
        if not options.on_text and options.retain == "states":
            raise RequestError("retain=states holds the text encoder, which does not change here; use predictions")
        check_templates(options.templates)
        check_no_anchor(request)
        return replace(options, harvest=min(options.harvest, options.steps))

    def run(self, plan: EditPlan, target: Target, ctx: RunContext) -> Edit:
        from erase_plugins.engine.adapters import Adapters
        from erase_plugins.engine.loop import train
        from erase_plugins.engine.run import plan_key

        options, key = revive(AdvUnlearnOptions, plan.options), plan_key(plan)
        wanted = set(plan.modules)
        refs = [ref for ref in self._refs(options, target.info) if f"{ref.component}.{ref.path}" in wanted]
        adapters = Adapters(target, refs, options.lora_rank, generator=ctx.generator("adapters"))
        ctx.precision = options.precision
        ctx.start(options.iterations)
        with adapters:
            work = _Work(plan.request, options, options.rollout_on(target, adapters, ctx), key)
            train(ctx, adapters, work.loss, options.schedule(), key)
        return adapters.edit()


class _Work:
    """The loss of a training step, over pools of teacher states."""

    def __init__(self, request: EraseRequest, options: AdvUnlearnOptions, rollout: Rollout, key: str) -> None:
        from erase_plugins.engine.attack import Prefix
        from erase_plugins.engine.text_tuning import HeldStates, same_meaning

        self.options, self.target, self.ctx = options, rollout.target, rollout.ctx
        self.prefix = Prefix(self.target, options.attack_rows)
        phrases = all_phrases(request)
        rollout.check(phrases)
        if options.aliases:
            same = same_meaning(self.target, phrases, options.alias_threshold)
            if same:
                self.ctx.note(f"erased with {', '.join(phrases[:3])}: {', '.join(same[:8])}")
            phrases += same
        prompts = [template.format(phrase) for template in options.templates for phrase in phrases]
        if options.attack != "off":
            self.prefix.check(self.target.tokens(prompts))
        self.erased = self._source(rollout, "erase", prompts * -(-options.trajectories // len(prompts)), key)
        self.held: HeldStates | None = None
        self.kept: Source | None = None
        if options.retain == "predictions":
            words = options.held_prompts(rollout, request, phrases, options.templates)
            self.kept = self._source(rollout, "keep", words, key) if words else None
        elif options.kept(request):
            self.held = HeldStates.of(
                self.target, phrases, request.preserve, options.keep_words, options.near, options.templates, self.ctx
            )
            self.held.prepare()

    def _source(self, rollout: Rollout, name: str, prompts: Sequence[str], key: str) -> Source:
        """Batches of teacher states by size and number."""
        if self.options.rollout == "teacher":
            return rollout.pool(name, prompts, key).batch

        def fresh(size: int, number: int) -> tuple[States, Conditioning]:
            pool = rollout.fresh(prompts, size, number)
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
