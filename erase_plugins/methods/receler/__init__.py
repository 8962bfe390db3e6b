"""Receler: reliable concept erasing with lightweight erasers (Huang et al., ECCV 2024, arXiv 2311.17717).

One small bottleneck network behind every cross-attention of the frozen denoiser is trained to answer the concept's
prompt as the frozen model would under negative guidance, also when learned rows behind the prompt try to bring the
concept back, and to stay silent where the concept is not:

    y = eps*(null) - eta [ eps*(c) - eps*(null) ],   L = mean (eps_E(c_adv) - y)^2 + locality * mean over layers of the
    mean square of E(o) outside the concept's cross-attention mask.

The learned rows P minimise mean (eps_E(c_adv) - eps*(c))^2; they live as long as the run.

Differs from the official code (``train_receler.py``):
    - the learned rows really stand in the prompt; the official loop writes them into a copy, so it trains on the plain
      prompt (``adversarial=off`` is that behaviour);
    - states come from harvested teacher trajectories that carry both predictions and the mask; ``rollout=student``
      rolls the student out for every sample. State and timestep belong together (officially off by 39..58 steps);
    - the mask comes from the cross-attention layers nearest to a quarter of the latents' side, of whatever size;
    - several prompt templates; one attack step shares its forward pass with the erasing loss;
    - optional preservation term as in ESD (on for toy-sized models and with --keep);
    - ``adversarial_rounds`` also learns tokens that bring the concept back, and erases them (0: as published);
    - files for stock loaders hold a linear stand-in of the erasers with its measured error.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from erase_plugins.engine.erasing import check_no_anchor
from erase_plugins.errors import RequestError
from erase_plugins.hookspecs import hookimpl
from erase_plugins.options import option
from erase_plugins.training import Cost, RolloutOptions, TrainedMethod, TrainingRun
from erase_plugins.training.round_options import RoundOptions
from erase_plugins.types import STAND_IN, Concept, EditPlan, EraseRequest

if TYPE_CHECKING:
    from torch import Tensor

    from erase_plugins.artifacts.edit import Edit
    from erase_plugins.engine.attack import Attacks
    from erase_plugins.engine.pools import Pool
    from erase_plugins.engine.trajectories import States
    from erase_plugins.families.base import Conditioning, ModuleRef, TargetInfo
    from erase_plugins.methods.receler.attention_masks import Masks
    from erase_plugins.methods.receler.bottleneck_adapters import Erasers
    from erase_plugins.training.rounds import Rounds


@dataclass(frozen=True)
class RecelerOptions(RoundOptions, RolloutOptions):
    """Options of Receler."""

    presets = "../../presets/receler.toml"

    lr: float = option(3e-4, "learning rate", low=0.0, high=1.0)
    iterations: int = option(500, "training steps", low=1)
    rank: int = option(128, "width of an eraser's bottleneck", low=1, high=1024)
    eta: float = option(1.0, "negative guidance", low=0.0, high=100.0, searched=(0.5, 3.0))
    adversarial: str = option("learned", "rows learned against the erasers, or off", choices=("learned", "off"))
    adversarial_steps: int = option(50, "attack steps per training step", low=1)
    adversarial_rows: int = option(16, "learned rows behind the prompt", low=1)
    adversarial_lr: float = option(0.1, "step size of the attack (Adam)", low=0.0, high=10.0)
    adversarial_decay: float = option(0.1, "weight decay of the learned rows", low=0.0, high=10.0)
    warmup: int = option(0, "training steps on the plain prompt before the attack starts", low=0)
    locality: float = option(0.1, "weight of silence outside the concept's mask", low=0.0)
    mask_threshold: float = option(
        0.1, "share of the largest attention from which a place is inside", low=0.0, high=1.0
    )
    mask_scale: int = option(4, "latent side over side of the attention maps", low=1, high=64)
    templates: tuple[str, ...] = option(("{}",), "prompts trained on; {} is the concept")
    rollout: str = option(
        "teacher", "who makes the trajectories: teacher (harvested once), or student (per sample)",
        choices=("teacher", "student"),
    )  # fmt: skip
    stand_in: int = option(48, "states that the linear stand-in for LoRA files is fitted on; 0: none", low=0)


def locality(outputs: Sequence[Tensor], masks: Sequence[Tensor]) -> Tensor:
    """Mean over layers and samples of the mean square of E(o) outside the mask.

    Args:
        outputs: (batch, places, dim) of every eraser.
        masks: (batch, places) of every layer, 1 inside.
    """
    total = outputs[0].new_zeros(())
    for out, mask in zip(outputs, masks, strict=True):
        outside = 1 - mask
        total = total + ((outside * out.square().mean(-1)).sum(-1) / (outside.sum(-1) + 1e-9)).mean()
    return total / len(outputs)


class Receler(TrainedMethod):
    """Bottleneck erasers after cross-attention; needs only the concept's name."""

    id = "receler"
    title = "Reliable concept erasing with lightweight erasers"
    paper = "https://arxiv.org/abs/2311.17717"
    summary = (
        "small networks after cross-attention, trained against learned prompts and silent elsewhere; base untouched"
    )
    kinds = frozenset({"object", "style", "person", "explicit"})
    produces = frozenset({"addon"})
    Options = RecelerOptions
    work_files: ClassVar[tuple[str, ...]] = ("states-*.safetensors", "masks-*.safetensors")
    contract_options: ClassVar[dict[str, Any]] = {
        **TrainedMethod.contract_options, "rank": 4, "adversarial_rows": 2, "adversarial_steps": 2, "stand_in": 6,
    }  # fmt: skip

    def settle(self, options: RecelerOptions, request: EraseRequest, info: TargetInfo) -> Any:
        check_no_anchor(request)
        if options.adversarial == "learned" and options.adversarial_rows + 3 > info.tokens:
            raise RequestError(
                f"adversarial_rows={options.adversarial_rows} leaves no room for a prompt in {info.tokens} tokens"
            )
        return super().settle(options, request, info)

    def modules(self, info: TargetInfo, options: RecelerOptions) -> Sequence[ModuleRef]:
        from erase_plugins.engine.attention import attention_refs

        refs = attention_refs(info)
        narrow = min(ref.shape[0] for ref in refs)
        if options.rank >= narrow:
            raise RequestError(f"rank={options.rank} is no bottleneck for layers of {narrow}; lower it")
        return refs

    def plan(self, request: EraseRequest, info: TargetInfo) -> EditPlan:
        plan = super().plan(request, info)
        return replace(plan, modules=tuple(f"{name}.to_out.0" for name in plan.modules))

    def cost(self, request: EraseRequest, options: RecelerOptions) -> Cost:
        cost, states = super().cost(request, options), self.trajectories(request, options) * options.harvest
        learned = options.adversarial == "learned"
        inner = (options.adversarial_steps - 1) * options.iterations * options.batch if learned else 0
        drawn = options.iterations * options.batch * (options.steps + 3) if options.rollout == "student" else 0
        searched = options.search_forwards(request, options)
        return replace(cost, forwards=cost.forwards + states + options.stand_in + drawn + 3.0 * inner + searched)

    def values(self, refs: Sequence[ModuleRef], request: EraseRequest, options: RecelerOptions) -> int:
        return sum(2 * options.rank * ref.shape[0] + options.rank + ref.shape[0] for ref in refs)

    def notes(self, request: EraseRequest, options: RecelerOptions) -> Sequence[str]:
        held = "LoRA files hold a linear stand-in with its error" if options.stand_in else "no LoRA file can carry them"
        return (f"the erasers are added modules; {held}",)

    def made(self, options: RecelerOptions) -> tuple[str, ...]:
        return (STAND_IN,) if options.stand_in else ("addon",)

    def trainable(self, run: TrainingRun) -> Erasers:
        from erase_plugins.methods.receler.bottleneck_adapters import Erasers

        refs = self.modules(run.target.info, run.options)
        return Erasers(run.target, refs, run.options.rank, run.ctx.generator("erasers"))

    def prepare(self, run: TrainingRun) -> _Work:
        from erase_plugins.training.rounds import Together

        work = _Work(run)
        run.carried = work.attacks if work.rounds is None else Together({"rows": work.attacks, "rounds": work.rounds})
        return work

    def loss(self, run: TrainingRun, step: int) -> Tensor:
        return run.state.loss(step)

    def finish(self, run: TrainingRun) -> Edit:
        from erase_plugins.methods.receler.linear_fit import with_stand_ins

        edit = self.edit(run)
        if not run.options.stand_in:
            return edit
        return with_stand_ins(edit, run.target, run.adapters, run.state.batches(), run.options.rank, run.ctx)


class _Work:
    """The loss of a training step, over pools of teacher states with masks."""

    def __init__(self, run: TrainingRun) -> None:
        from erase_plugins.engine.attack import in_context
        from erase_plugins.methods.receler.attention_masks import Masks

        self.run, self.options, self.erasers = run, run.options, run.adapters
        self.target, self.ctx = run.target, run.ctx
        self.names = [concept.text for concept in run.request.concepts]
        self.prompts = [self._prompts(concept) for concept in run.request.concepts]
        for prompts in self.prompts:
            run.rollout.check([prompt for prompt, _ in prompts])
            if self.options.adversarial == "learned":  # refuses prompts that leave no room
                cond = self.target.encode([prompt for prompt, _ in prompts])
                in_context(cond, cond.embeds.new_zeros(self.options.adversarial_rows, cond.embeds.shape[-1]))
        self.masks: Masks | None = None
        if self.options.locality > 0:
            options = self.options
            self.masks = Masks(self.target, self.erasers, options.mask_scale, options.mask_threshold, self.ctx)
        self.attacks = self._attacks()
        self.rounds: Rounds | None = run.rounds()
        self.pools = [self._pool(number) for number in range(len(self.names))]

    def _prompts(self, concept: Concept) -> list[tuple[str, str]]:
        """(prompt, phrase in it) of the trajectories of one concept."""
        phrases = (concept.text, *concept.prompts)
        once = [(template.format(phrase), phrase) for template in self.options.templates for phrase in phrases]
        return once * -(-self.options.trajectories // (len(once) * len(self.names)))

    def _attacks(self) -> Attacks:
        """Learned rows of every concept, uniform in 0..1 at the start."""
        import torch

        from erase_plugins.engine.attack import Attack, Attacks

        options, width = self.options, self.target.info.width
        return Attacks({
            name: Attack(
                torch.rand((options.adversarial_rows, width), generator=self.ctx.generator(f"attack {name}")).to(
                    self.target.device), options.adversarial_lr, decay=options.adversarial_decay,
            )
            for name in self.names
        })  # fmt: skip

    def _pool(self, number: int) -> Pool | None:
        """Teacher states of one concept; None if the student makes them."""
        prompts = [prompt for prompt, _ in self.prompts[number]]
        if self.options.rollout == "student":
            return None
        pool = self.run.pool(f"erase-{number}", prompts)
        if self.masks is None:
            return pool
        rows = [self.prompts[number][place][1] for place in pool.states.row.tolist()]
        return replace(pool, states=self.masks.on(pool.states, pool.cond, rows, self.run.key, f"masks-{number}"))

    def _batch(self, number: int, step: int) -> tuple[States, Conditioning]:
        pool = self.pools[number]
        if pool is not None:
            return pool.batch(self.options.batch, step)
        pool = self.run.rollout.fresh([prompt for prompt, _ in self.prompts[number]], self.options.batch, step)
        phrases = dict(self.prompts[number])
        rows = pool.states.row.tolist()
        names = [phrases[pool.cond.prompts[place]] for place in rows]
        states = pool.states if self.masks is None else self.masks.on(pool.states, pool.cond, names)
        return states, pool.cond[rows]

    def loss(self, step: int) -> Tensor:
        """Erasing under attack, silence outside the mask, and what is held in place."""
        import torch
        from torch.nn.functional import mse_loss

        from erase_plugins.engine.attack import in_context
        from erase_plugins.engine.trajectories import ask, guided, join

        options, number = self.options, step % len(self.names)
        states, cond = self._batch(number, step // len(self.names))
        cond = cond if self.rounds is None else self.rounds.put(step, cond)
        seen = states.predictions
        attack = self.attacks[self.names[number]]
        attacked = options.adversarial == "learned" and step >= options.warmup

        def guess(rows: Tensor, _step: int = 0) -> Tensor:
            out = ask(self.target, states.inputs, states.timestep, in_context(cond, rows), self.ctx)
            return mse_loss(out, seen["prompt"])

        if attacked:
            attack.run(guess, options.adversarial_steps - 1)
        inputs, times, conds = [states.inputs], [states.timestep], [in_context(cond, attack.rows) if attacked else cond]
        kept = self.run.retain(step)
        for part in kept:
            inputs, times, conds = [*inputs, part.states.inputs], [*times, part.states.timestep], [*conds, part.cond]
        with self.erasers.recording() as outputs:
            out = ask(self.target, torch.cat(inputs), torch.cat(times), join(conds), self.ctx)
        mine, rest = out[: len(states)], out[len(states) :]
        total = mse_loss(mine, guided(seen["null"], seen["prompt"], -options.eta))
        for part in kept:
            total = total + part.weight * mse_loss(rest, part.wanted)
        if self.masks is not None:
            own = [out[: len(states)] for out in outputs.values()]
            total = total + options.locality * locality(own, [self.masks.at(states, out.shape[1]) for out in own])
        if attacked:  # the last attack step uses this pass; the graph is needed once more for the erasers
            attack.step(mse_loss(mine, seen["prompt"]), keep_graph=True)
        return total

    def batches(self) -> Iterator[tuple[States, Conditioning]]:
        """States of the concept and of what is held, for the stand-in; about ``stand_in`` of them."""
        size = max(min(self.options.stand_in // 6, 8), 1)
        for place in range(-(-self.options.stand_in // size)):
            if place % 2 and self.run.retained is not None:
                yield self.run.retained.batch(size, place)
            else:
                yield self._batch(place % len(self.names), place)


@hookimpl
def erase_methods() -> list[Receler]:
    return [Receler()]
