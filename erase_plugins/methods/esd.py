"""ESD: erased Stable Diffusion (Gandikota et al., ICCV 2023, arXiv 2303.07345).

The denoiser is trained to answer the concept's prompt as the frozen model would under negative guidance:

    y = eps*(x_t, t, c_f) - eta_c [ eps*(x_t, t, c_e) - eps*(x_t, t, c_0) ],    L = mean (eps(x_t, t, c_f) - y)^2

with c_e the concept, c_0 the empty prompt, c_f the prompt to erase from (c_e unless given). The paper writes
eps*(c_0) - eta [...] (its equation for the fine-tuning target); for c_f = c_e that is the form above with
eta_c = eta + 1. The coefficients sum to 1, so raw v-predictions are used as they are.

``course=ant`` is the loss of ANT (Li et al., ACM MM 2025, arXiv 2504.12782): in the first steps of the sampler, where
the layout forms, the student is guided towards the concept, in later ones away from it, and its prediction without a
prompt is held; with d = eps*(c_e) - eps*(c_0) and + early, - late,

    L = mean (eps(x_t, c_e) - (eps*(c_0) +- eta d))^2 + empty_weight mean (eps(x_t, c_0) - eps*(c_0))^2

``centre`` and ``hold`` are what AEGIS adds (Li et al., ICLR 2026, arXiv 2602.06771): the concept in the target is a
token e that moves to the centre of what base and student take for it, y = eps*(c_0) - eta [eps*(e) - eps*(c_0)],
and the weights are held without data (`training.centre`). Its third part, prompts found against the student, are the
``adversarial_rounds``.

Differs from the official code (``train-esd.py``, ``esd_sd.py``, ``esd_sdxl.py``):
    - states come from harvested teacher trajectories: every visited state carries the two predictions that the target
      needs, so a training step needs no rollout; ``rollout=student`` rolls the student out for every sample instead;
    - one denoiser with switchable adapters instead of two copies; LoRA by default, ``parameters=full`` as published;
    - latents are scaled for samplers in sigma space (the 2025 SDXL script feeds them unscaled), at the model's own size
      and the rollout's empty prompt is the encoded '' everywhere;
    - ``train=u`` leaves the time embedding, the first and the last convolution alone (as in 2023, unlike 2025);
    - several prompt templates; ``templates={}`` trains on the bare concept only, as published;
    - optional preservation term: predictions for neighbours of the concept and random words of the vocabulary, and for
      what is named with --keep, are held at the teacher's (on for toy-sized models and with --keep);
      ``keep_weight=0`` is the published loss;
    - ``adversarial_rounds`` learns tokens that bring the concept back and erases them as well (0: as published);
    - the learning rate may fall to 0 at the end (``cooldown``; 0 is the published constant rate);
    - ``course=ant`` trains a LoRA instead of the most salient half of all weights, and takes early for the noisy end as
      the paper does (the official code for one concept takes the clean end, and its term without a prompt has no
      gradient).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from erase_plugins.engine.erasing import check_no_anchor
from erase_plugins.errors import RequestError
from erase_plugins.families.model import CROSS_ATTENTION
from erase_plugins.hookspecs import hookimpl
from erase_plugins.options import option
from erase_plugins.training import Cost, TrainedMethod, TrainingOptions, TrainingRun
from erase_plugins.training.round_options import RoundOptions
from erase_plugins.types import EraseRequest

if TYPE_CHECKING:
    from torch import Tensor

    from erase_plugins.engine.loop import Carried, Turn
    from erase_plugins.engine.pools import Pool
    from erase_plugins.families.base import ModuleRef, TargetInfo

#: train set -> module group
GROUPS = {
    "x": "cross_attn", "x-strict": "cross_kv", "u": "non_cross", "selfattn": "self_attn", "all": "denoiser",
    "x-text": "text_side",
}  # fmt: skip
_OTHER_NAMES = {"strict": "x-strict", "xattn": "x", "xattn-strict": "x-strict", "noxattn": "u", "full": "all"}

_CITATION = """\
@inproceedings{gandikota2023erasing,
  title = {Erasing Concepts from Diffusion Models},
  author = {Gandikota, Rohit and Materzynska, Joanna and Fiotto-Kaufman, Jaden and Bau, David},
  booktitle = {IEEE/CVF International Conference on Computer Vision},
  year = {2023}
}"""


@dataclass(frozen=True)
class ESDOptions(RoundOptions, TrainingOptions):
    """Options of ESD."""

    presets = "../presets/esd.toml"

    train: str = option(
        "u", "modules: x cross-attention, x-strict its keys and values, u all but cross-attention, selfattn, all; "
        "x-text (flow transformers): keys and values of the text and the layers that take it in",
        choices=tuple(GROUPS),
    )  # fmt: skip
    eta: float = option(1.0, "negative guidance in the given convention", low=-100.0, high=100.0, searched=(0.5, 3.0))
    convention: str = option(
        "paper", "meaning of eta: paper, or code2025 (larger by 1 for the same target)", choices=("paper", "code2025")
    )
    enhance: bool = option(False, "allow a negative eta, which strengthens the concept instead")
    erase_from: str | None = option(None, "erase the concept only from this prompt ('cowboy hat' from 'cowboy')")
    templates: tuple[str, ...] = option(("{}", "a {}", "a {} picture"), "prompts trained on; {} is the concept")
    course: str = option("esd", "target over the steps: esd the same in all, ant towards the concept in early ones",
                           choices=("esd", "ant"))  # fmt: skip
    early: float = option(0.14, "course=ant: share of the sampler steps that count as early", low=0.0, high=1.0)
    empty_weight: float = option(0.5, "course=ant: weight of holding the prediction without a prompt", low=0.0)
    centre: float = option(
        0.0, "AEGIS: steps of a token that stands for the concept in the target, towards the answers of base and "
        "student; 0: its name stands there", low=0.0, high=1.0,
    )  # fmt: skip
    hold: float = option(
        0.0, "AEGIS: last weight of holding the trained weights where that opposes erasing, and across it; 0: off",
        low=0.0, high=1e4,
    )  # fmt: skip
    rollout: str = option(
        "teacher", "who makes the trajectories: teacher (harvested once), or student (per sample)",
        choices=("teacher", "student"),
    )  # fmt: skip

    @property
    def eta_code(self) -> float:
        """eta_c: how often the concept's direction is subtracted from the prompt's own prediction."""
        return self.eta + 1.0 if self.convention == "paper" else self.eta


def esd_target(null: Tensor, erase: Tensor, base: Tensor, eta: float) -> Tensor:
    """base - eta (erase - null), tensors (batch, channels, height, width).

    ``base`` is the prediction for c_f with eta_c (2025 code), or for the empty prompt with the paper's eta.
    """
    return base - eta * (erase - null)


def ant_target(null: Tensor, erase: Tensor, eta: float, early: Tensor) -> Tensor:
    """null + eta (erase - null) for samples that are ``early`` (batch,), null - eta (erase - null) for the others."""
    sign = early.to(null.dtype) * 2 - 1
    return null + eta * sign.reshape(-1, 1, 1, 1) * (erase - null)


class ESD(TrainedMethod):
    """Negative-guidance fine-tuning of the denoiser; needs only the concept's name."""

    id = "esd"
    title = "Erased Stable Diffusion"
    paper = "https://arxiv.org/abs/2303.07345"
    citation = _CITATION
    summary = "trains the denoiser towards negative guidance on harvested trajectories; LoRA or full weights"
    needs = frozenset({"denoiser", "text"})
    kinds = frozenset({"object", "style", "person", "explicit"})
    produces = frozenset({"lowrank", "dense"})
    Options = ESDOptions
    recomputes = True

    def resolved(self, request: EraseRequest, info: TargetInfo) -> Any:
        given = dict(request.options)
        if "train" in given:
            name = str(given["train"]).lower().removeprefix("esd-")
            given["train"] = _OTHER_NAMES.get(name, name)
        return super().resolved(replace(request, options=given), info)

    def settle(self, options: ESDOptions, request: EraseRequest, info: TargetInfo) -> Any:
        if options.eta < 0 and not options.enhance:
            raise RequestError(f"eta={options.eta:g} would strengthen the concept; add enhance=true if that is wanted")
        if options.erase_from is not None and not options.erase_from.strip():
            raise RequestError("erase_from is empty; name the prompt to erase from, or leave it out")
        if options.erase_from is not None and options.adversarial_rounds:
            raise RequestError(
                "adversarial_rounds learn names of the concept, and erase_from erases it from another prompt"
            )
        if options.course == "ant" and options.erase_from is not None:
            raise RequestError("course=ant erases the concept from its own prompt; leave out erase_from")
        if options.centre and (options.erase_from is not None or options.course == "ant"):
            raise RequestError("centre moves the concept in the target of esd; leave out erase_from and course=ant")
        for name in ("adversarial_rounds", "centre"):
            if getattr(options, name) and not info.supports(CROSS_ATTENTION):
                raise RequestError(
                    f"{name}: tokens are learned for CLIP text encoders, {info.model} reads T5 too; set it to 0"
                )
        check_no_anchor(request)
        return super().settle(options, request, info)

    def modules(self, info: TargetInfo, options: ESDOptions) -> list[ModuleRef]:
        info.modules("cross_attn")  # without it the prompt does not reach the denoiser
        return [ref for ref in info.modules(GROUPS[options.train]) if ref.kind in ("linear", "conv")]

    def cost(self, request: EraseRequest, options: ESDOptions) -> Cost:
        cost = super().cost(request, options)
        drawn = options.iterations * options.batch * (options.steps + 2) if options.rollout == "student" else 0
        moved = 4.0 * options.iterations * options.batch * (options.centre > 0)
        return replace(cost, forwards=cost.forwards + drawn + moved + options.search_forwards(request, options))

    def warnings(self, request: EraseRequest, info: TargetInfo, options: ESDOptions) -> Sequence[str]:
        shared = super().warnings(request, info, options)
        if options.train in ("u", "all") and "sdxl" in info.profiles:
            return ("training more than cross-attention on SDXL is experimental and may leave artefacts", *shared)
        return shared

    def notes(self, request: EraseRequest, options: ESDOptions) -> Sequence[str]:
        return (f"eta {options.eta:g} ({options.convention}) is eta_c {options.eta_code:g}",)

    def prepare(self, run: TrainingRun) -> Callable[[int], Pool]:
        """The states of a step: harvested once, or rolled out by the student."""
        options, prompts = run.options, run.prompts()
        run.carried = carried(run)
        run.rollout.check(prompts)
        bases = prompts if options.erase_from is None else [options.erase_from] * len(prompts)
        watch = {} if options.erase_from is None else {"erase": prompts}
        if options.rollout == "student":
            return lambda step: run.rollout.fresh(bases, options.batch, step, watch)
        pool = run.pool("erase", bases, watch)
        return lambda step: pool

    def loss(self, run: TrainingRun, step: int) -> Tensor:
        from erase_plugins.training.centre import Centre
        from erase_plugins.training.rounds import Rounds, among

        options = run.options
        states, cond = run.state(step).batch(options.batch, step)
        seen = states.predictions
        centre, rounds = among(run.carried, Centre), among(run.carried, Rounds)
        if centre is not None:
            seen = {**seen, "erase": centre.prediction(states, cond)}
        cond = cond if rounds is None else rounds.put(step, cond)
        if options.course == "ant":
            return self.ant_loss(run, step, states, cond)
        base = seen["prompt"] if centre is None else seen["erase"]
        wanted = esd_target(seen["null"], seen.get("erase", seen["prompt"]), base, options.eta_code)
        return run.mean_squares([(states, cond, wanted, 1.0), *run.retain(step)])

    def turn(self, run: TrainingRun) -> Turn | None:
        if not run.options.hold:
            return None
        import torch

        from erase_plugins.training.centre import change_size, turned

        parameters, adapters, options = run.adapters.parameters(), run.adapters, run.options

        def held(step: int, grads: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
            back = torch.autograd.grad(change_size(adapters), parameters, allow_unused=True)
            return turned(grads, back, options.hold * step / max(run.plan.steps - 1, 1))

        return held

    def ant_loss(self, run: TrainingRun, step: int, states: Any, cond: Any) -> Tensor:
        """ANT's loss; see the module's text. States come from trajectories with the concept, early ones included."""
        from erase_plugins.engine.trajectories import repeat

        options, seen = run.options, states.predictions
        early = states.index < options.early * options.steps
        wanted = ant_target(seen["null"], seen["prompt"], options.eta_code - 1.0, early)
        parts = [(states, cond, wanted, 1.0)]
        if options.empty_weight:
            empty = repeat(run.target.encode([""]), len(states))
            parts.append((states, empty, seen["null"], options.empty_weight))
        return run.mean_squares([*parts, *run.retain(step)])


def carried(run: TrainingRun) -> Carried | None:
    """What moves along with the training: rounds of search, the centre of the concept."""
    from erase_plugins.training.centre import Centre
    from erase_plugins.training.rounds import Together

    options, rounds = run.options, run.rounds()
    parts: dict[str, Carried] = {}
    if rounds is not None:
        parts["rounds"] = rounds
    if options.centre:
        parts["centre"] = Centre(
            run.target, run.adapters, run.request.concepts, options.templates, options.centre, run.ctx
        )
    return Together(parts) if len(parts) > 1 else next(iter(parts.values()), None)


@hookimpl
def erase_methods() -> list[ESD]:
    return [ESD()]
