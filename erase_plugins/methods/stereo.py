"""STEREO: search thoroughly, then erase once (Srivatsan et al., CVPR 2025, arXiv 2408.16807).

First stage, ``adversarial_rounds`` times: erase the current phrase from the current denoiser,

    y = eps*(null) - eta [ eps*(c_i) - eps*(null) ],

then learn a token v_i that brings the concept back (concept inversion), which is the next phrase c_{i+1}. The tokens
are kept, the denoiser is discarded. Second stage, from the original weights, for all of E = {concept, v_1 .. v_k}:

    y = eps*(null) + w_a [ eps*(a) - eps*(null) ] - w_n mean over j in E of [ eps*(j) - eps*(null) ],

each on trajectories towards every member of E in turn, with anchors a that stay.

Differs from the official code:
    - the teacher is the frozen original denoiser throughout; the official one is the drifting student, and its second
      stage starts from the denoiser of the first;
    - w_a and w_n are options of their own (the official scale 2 means 1 and 3);
    - states come from harvested teacher trajectories, which both stages share; LoRA by default;
    - anchors are words of the vocabulary that mean something else, unless ``anchors`` names sentences;
    - optional preservation term as in ESD, in both stages (on for toy-sized models and with --keep);
    - optionally (``null_weight``) the prediction without a prompt moves the other way, as in ACE,
      eps(null) -> eps*(null) + eta_null mean over j of [ eps*(j) - eps*(null) ]: under guidance w every prompt is then
      driven away from the concept on its states, also one whose own prediction is the concept's if eta_null > w/(w-1).
The tokens that were found are attacks: they stay in the work folder and are in no file of the artifact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from erase_plugins.engine.erasing import all_phrases, check_no_anchor
from erase_plugins.engine.optimizers import OPTIMIZERS
from erase_plugins.errors import RequestError
from erase_plugins.hookspecs import hookimpl
from erase_plugins.options import option
from erase_plugins.training import Cost, TrainedMethod, TrainingOptions, TrainingRun
from erase_plugins.training.round_options import RoundOptions
from erase_plugins.types import EraseRequest

if TYPE_CHECKING:
    from torch import Tensor

    from erase_plugins.engine.pools import Pool
    from erase_plugins.families.base import Conditioning, ModuleRef, TargetInfo
    from erase_plugins.training.rounds import Search

#: train set -> module group
GROUPS = {"u": "non_cross", "x": "cross_attn", "all": "denoiser"}


@dataclass(frozen=True)
class StereoOptions(RoundOptions, TrainingOptions):
    """Options of STEREO."""

    presets = "../presets/stereo.toml"

    adversarial_rounds: int = option(2, "rounds of erasing and searching beforehand", low=1, high=64)
    search_iterations: int = option(200, "training steps of a round, before its search", low=1)
    search_lr: float | None = option(None, "learning rate of the rounds; none: lr", low=0.0, high=1.0)
    eta: float = option(1.0, "negative guidance in the rounds", low=0.0, high=100.0)
    iterations: int = option(200, "training steps of the erasure that counts", low=1)
    anchor_weight: float = option(1.0, "w_a: how far it goes towards the anchors", low=0.0, high=100.0)
    concept_weight: float = option(3.0, "w_n: how far it goes away from concept and tokens", low=0.0, high=100.0)
    anchors: tuple[str, ...] = option((), "what the concept goes towards, comma separated; none: vocabulary words")
    anchor_words: int = option(16, "vocabulary words as anchors where none is named", low=1, high=10_000)
    null_weight: float = option(0.0, "weight of the term without a prompt; 0: none, as published", low=0.0)
    eta_null: float = option(
        1.5, "how far the prediction without a prompt moves towards concept and tokens", low=0.0, high=100.0
    )
    train: str = option("u", "modules: u all but cross-attention, x cross-attention, all", choices=tuple(GROUPS))
    optimizer: str = option("adamw", "optimizer", choices=OPTIMIZERS)
    templates: tuple[str, ...] = option(("{}", "a {}", "a {} picture"), "prompts trained on; {} is the concept")


def compositional_target(
    null: Tensor, anchor: Tensor | None, members: Sequence[Tensor], anchor_weight: float, concept_weight: float
) -> Tensor:
    """null + w_a (anchor - null) - w_n mean (member - null), tensors (batch, channels, height, width)."""
    away = sum(member - null for member in members) / len(members)
    towards = 0.0 if anchor is None else anchor_weight * (anchor - null)
    return null + towards - concept_weight * away


class Stereo(TrainedMethod):
    """Adversarial rounds with concept inversion, then one compositional erasure from the original weights."""

    id = "stereo"
    title = "Search thoroughly enough, robustly erase once"
    paper = "https://arxiv.org/abs/2408.16807"
    summary = "finds tokens that bring the concept back round by round, then erases all of them at once"
    kinds = frozenset({"object", "style", "person", "explicit"})
    produces = frozenset({"lowrank", "dense"})
    Options = StereoOptions
    recomputes = True
    work_files: ClassVar[tuple[str, ...]] = (*TrainedMethod.work_files, "round-*.safetensors")
    contract_options: ClassVar[dict[str, Any]] = {
        **TrainedMethod.contract_options, "adversarial_rounds": 1, "search_iterations": 2, "inversion_steps": 2,
        "inversion_batch": 2, "inversion_pictures": 2, "anchor_words": 2,
    }  # fmt: skip

    def settle(self, options: StereoOptions, request: EraseRequest, info: TargetInfo) -> Any:
        from erase_plugins.training.priors import own_priors

        check_no_anchor(request)
        bad = own_priors(options.anchors, all_phrases(request))[1]
        if bad:
            raise RequestError(f"anchor '{bad[0]}' names the concept; name something that stays")
        if options.anchor_weight + options.concept_weight <= 0:
            raise RequestError("anchor_weight and concept_weight are both 0; nothing would be erased")
        return super().settle(options, request, info)

    def modules(self, info: TargetInfo, options: StereoOptions) -> list[ModuleRef]:
        info.modules("cross_attn")  # without it the prompt does not reach the denoiser
        return [ref for ref in info.modules(GROUPS[options.train]) if ref.kind in ("linear", "conv")]

    def cost(self, request: EraseRequest, options: StereoOptions) -> Cost:
        cost, members = super().cost(request, options), options.adversarial_rounds + 1
        searched = options.search_forwards(request, options)
        erased = 3.0 * options.adversarial_rounds * options.search_iterations * cost.batch
        asked = self.trajectories(request, options) * options.harvest * members
        batch = cost.batch + options.batch * (options.null_weight > 0)
        return replace(cost, forwards=cost.forwards + searched + erased + asked, batch=batch)

    def notes(self, request: EraseRequest, options: StereoOptions) -> Sequence[str]:
        searched = (
            f"{options.adversarial_rounds} rounds of {options.search_iterations} + {options.inversion_steps} steps"
        )
        return (f"{searched} come before the erasure; the tokens they find stay in the work folder",)

    def prepare(self, run: TrainingRun) -> list[Pool]:
        """Teacher states of every member of E with what they become."""
        from erase_plugins.training.rounds import Search

        options = run.options
        run.rollout.check(run.prompts())
        run.retained = super().retain(run)
        search = Search(run.rollout, options, run.request.concepts, options.templates, run.key)
        search.check()
        members = [[self._named(run, number)] for number in range(len(run.request.concepts))]
        before = {name: part.detach().clone() for name, part in run.adapters.named_parameters().items()}
        for turn in range(options.adversarial_rounds):
            for number, rows in enumerate(self._round(run, search, members, turn)):
                members[number].append(self._pool(run, number, turn + 1, search.encoded(rows)))
        run.adapters.load(before)
        anchors = self._anchors(run)
        pools = [self._wanted(run, pool, own, anchors) for own in members for pool in own]
        return pools

    def retain(self, run: TrainingRun) -> Pool | None:
        return run.retained  # the rounds hold it as well

    def _named(self, run: TrainingRun, number: int) -> Pool:
        """States on the way to a concept by its names."""
        concept = run.request.concepts[number]
        phrases = (concept.text, *concept.prompts)
        cond = run.target.encode([text.format(phrase) for text in run.options.templates for phrase in phrases])
        return self._pool(run, number, 0, cond)

    def _pool(self, run: TrainingRun, number: int, member: int, cond: Conditioning) -> Pool:
        """States on the way to one member of E, given by its prompts."""
        options, name = run.options, run.request.concepts[number].text
        share = len(run.request.concepts) * (options.adversarial_rounds + 1)
        rows = list(range(len(cond.last))) * -(-options.trajectories // (len(cond.last) * share))
        return run.rollout.pool(f"erase-{number}-{member}", [name] * len(rows), run.key, cond=cond[rows])

    def _round(self, run: TrainingRun, search: Search, members: list[list[Pool]], turn: int) -> list[Tensor]:
        """Erases the newest phrase of every concept, then learns what brings the concepts back."""
        options, ctx = run.options, run.ctx

        def make() -> dict[str, Tensor]:
            from erase_plugins.engine.loop import Schedule, train
            from erase_plugins.engine.trajectories import guided

            def loss(step: int) -> Tensor:
                pool = members[step % len(members)][-1]
                states, cond = pool.batch(options.batch, step // len(members))
                wanted = guided(states.predictions["null"], states.predictions["prompt"], -options.eta)
                return run.mean_squares([(states, cond, wanted, 1.0), *run.retain(step)])

            quiet = replace(ctx, work=None, listeners=(search.progress,))
            rate = options.lr if options.search_lr is None else options.search_lr
            train(quiet, run.adapters, loss, Schedule(options.search_iterations, rate, options.optimizer), "")
            found = {f"rows {number}": search.learn(number, turn) for number in range(len(members))}
            return {**found, **{name: part.detach().clone() for name, part in run.adapters.named_parameters().items()}}

        made = {name: part.to(run.target.device) for name, part in ctx.stash(f"round-{turn}", run.key, make).items()}
        run.adapters.load(made)
        return [made[f"rows {number}"] for number in range(len(members))]

    def _anchors(self, run: TrainingRun) -> Conditioning | None:
        """Prompts that the concept goes towards; None where they do not count."""
        from erase_plugins.training.priors import chosen_priors

        options = run.options
        if options.anchor_weight == 0:
            return None
        found = chosen_priors(
            run.target, run.phrases, run.request.concepts, options.anchors, options.anchor_words, options.near, run.ctx
        )
        return run.target.encode(found)

    def _wanted(self, run: TrainingRun, pool: Pool, own: Sequence[Pool], anchors: Conditioning | None) -> Pool:
        """A pool whose states know what the student should answer; anchors come by turns."""
        options, states = run.options, pool.states
        rows = states.row.tolist()
        seen = [
            states.predictions["prompt"] if other is pool
            else run.rollout.teacher(states, other.cond[[row % len(other.cond.last) for row in rows]])
            for other in own
        ]  # fmt: skip
        anchor = None
        if anchors is not None:
            anchor = run.rollout.teacher(states, anchors[[row % len(anchors.last) for row in rows]])
        null = states.predictions["null"]
        wanted = {
            "prompt": compositional_target(null, anchor, seen, options.anchor_weight, options.concept_weight),
            "null": compositional_target(null, None, seen, 0.0, -options.eta_null),
        }
        return replace(pool, states=replace(states, predictions=wanted))

    def loss(self, run: TrainingRun, step: int) -> Tensor:
        from erase_plugins.engine.trajectories import repeat

        options, pools = run.options, run.state
        states, cond = pools[step % len(pools)].batch(options.batch, step // len(pools))
        parts: list[Any] = [(states, cond, states.predictions["prompt"], 1.0), *run.retain(step)]
        if options.null_weight > 0:
            empty = repeat(run.target.encode([""]), len(states))
            parts.append((states, empty, states.predictions["null"], options.null_weight))
        return run.mean_squares(parts)


@hookimpl
def erase_methods() -> list[Stereo]:
    return [Stereo()]
