"""ACE: anti-editing concept erasure (Wang et al., CVPR 2025, arXiv 2501.01633).

The prediction without a prompt is trained along with the concept's, so that classifier-free guidance pushes away from
the concept whatever the prompt says; an erased concept can then not come back through an edit that never names it.
With g_c = eps*(x, c) - eps*(x, "") of the frozen model and states x of the concept's trajectories:

    y_c = eps*(x, "") - eta_c g_c
    y_u = eps*(x, "") + eta_u g_c - eta_p sum_p gamma_p g_p
    L   = l_u |eps(x, "") - y_u|^2 + l_c |eps(x, c) - y_c|^2 + l_p mean_p |eps(x, p) - eps*(x, p)|^2

over prior concepts p, which stay (prior correction). It protects only where guidance is used: with a guidance of 1 the
prediction without a prompt does not count, and an empty prompt without guidance is drawn towards the concept.

Differs from the official code (``train_ace.py``, ``clip_evaluator.py``):
    - states of all noise levels from harvested trajectories of the frozen model, as the paper describes; the official
      loop never stops its rollout and trains on finished latents at random timesteps;
    - every prediction that a target needs is stored with its state: a training step is one forward pass of the student;
    - priors are named (``priors``, --keep) or taken from the vocabulary, and what names the target is left out whatever
      its spelling; their scores are 1, the text encoder's similarity, or a JSON file (``scores``);
    - on SDXL the prediction without a prompt is that of the empty prompt and of the zeros that pipelines use, in turn;
    - on toy-sized models the LoRA starts Gaussian of variance 1/in instead of uniform within 1/sqrt(in);
    - optionally predictions with and without prompt are held on the priors' own trajectories (``keep_words``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar

from erase_plugins.engine.erasing import all_phrases, check_no_anchor
from erase_plugins.errors import RequestError
from erase_plugins.hints import KEEP, Sentence, Setting
from erase_plugins.hookspecs import hookimpl
from erase_plugins.options import option
from erase_plugins.training import Cost, TrainedMethod, TrainingOptions, TrainingRun
from erase_plugins.training.options import StartOptions
from erase_plugins.types import EraseRequest

if TYPE_CHECKING:
    from torch import Tensor

    from erase_plugins.families.base import ModuleRef, TargetInfo


@dataclass(frozen=True)
class ACEOptions(StartOptions, TrainingOptions):
    """Options of ACE."""

    presets = "../presets/ace.toml"

    eta_null: float = option(3.0, "eta_u: how far the prediction without a prompt moves towards the concept",
                             low=-100.0, high=100.0)  # fmt: skip
    eta: float = option(3.0, "eta_c: negative guidance of the concept's prediction", low=-100.0, high=100.0)
    eta_prior: float = option(3.0, "eta_p: prior correction", low=0.0, high=100.0)
    null_weight: float = option(0.19, "weight of the term without a prompt", low=0.0)
    erase_weight: float = option(0.01, "weight of the concept's term", low=0.0)
    prior_weight: float = option(0.8, "weight of the priors' term", low=0.0)
    priors: tuple[str, ...] = option(
        (), Sentence("concepts that stay, comma separated; those named ", KEEP, " count as well")
    )
    prior_words: int = option(30, "priors from the vocabulary where none is named, half of them the closest", low=0,
                              high=10_000)  # fmt: skip
    prior_batch: int = option(2, "priors per state", low=1, high=64)
    correction: str = option("sum", "priors' directions of a state are summed (official) or averaged",
                             choices=("sum", "mean"))  # fmt: skip
    scores: str = option("one", "gamma_p: one, text (similarity in the text encoder), or a JSON file {prior: score}")
    templates: tuple[str, ...] = option(("{}",), "prompts trained on; {} is the concept or a prior")
    rank: int = option(4, "LoRA rank", low=1, high=1024)
    alpha: float = option(1.0, "LoRA alpha: the change is scaled by alpha / rank", low=1e-6)
    lr: float | None = option(1e-3, "learning rate", low=0.0, high=1.0)
    iterations: int = option(1500, "training steps", low=1)
    steps: int = option(30, "sampler steps of a rollout", low=1, high=1000)
    keep_words: int = option(0, "vocabulary words whose own trajectories are held, with and without prompt", low=0,
                             high=10_000)  # fmt: skip
    keep_batch: int = option(1, "preserved states per training step, each asked twice", low=1, high=1024)

    @property
    def scale(self) -> float:
        """Factor of the low-rank product; full weights have none."""
        return self.alpha / self.rank if self.parameters == "lora" else 1.0


def null_target(null: Tensor, concept: Tensor, priors: Sequence[Tensor], gammas: Tensor, options: Any) -> Tensor:
    """y_u: what the prediction without a prompt becomes, tensors (batch, channels, height, width).

    Args:
        null, concept: frozen predictions without a prompt and for the concept.
        priors: frozen predictions for each prior of a state.
        gammas: score of each of them (batch, priors).
        options: eta_null, eta_prior and correction.
    """
    correction = null.new_zeros(())
    for place, prior in enumerate(priors):
        correction = correction + gammas[:, place, None, None, None] * (prior - null)
    if options.correction == "mean" and priors:
        correction = correction / len(priors)
    return null + options.eta_null * (concept - null) - options.eta_prior * correction


class ACE(TrainedMethod):
    """Erasure that also holds in editing: the prediction without a prompt repels the concept."""

    id = "ace"
    title = "Anti-Editing Concept Erasure"
    paper = "https://arxiv.org/abs/2501.01633"
    summary = "trains conditional and unconditional prediction, so that guidance repels the concept in edits too"
    kinds = frozenset({"object", "style", "person", "explicit"})
    produces = frozenset({"lowrank", "dense"})
    Options = ACEOptions
    recomputes = True
    contract_options: ClassVar[dict[str, Any]] = {
        **TrainedMethod.contract_options, "batch": 1, "templates": ("{}",),
    }  # fmt: skip

    def settle(self, options: ACEOptions, request: EraseRequest, info: TargetInfo) -> Any:
        from erase_plugins.training.priors import own_priors

        check_no_anchor(request)
        if options.null_weight + options.erase_weight + options.prior_weight <= 0:
            raise RequestError("null_weight, erase_weight and prior_weight are all 0; nothing would be trained")
        named = (*options.priors, *request.preserve)
        phrases = all_phrases(request)
        if not own_priors(named, phrases)[0] and (named or not options.prior_words):
            reason = f"all of {', '.join(named[:3])} name the target" if named else "prior_words is 0"
            if options.prior_weight > 0 or options.eta_prior > 0:
                raise RequestError(
                    f"ace needs prior concepts that stay and {reason}; name some ",
                    Setting("priors", "...", before="with"),
                )
        return super().settle(options, request, info)

    def modules(self, info: TargetInfo, options: ACEOptions) -> Sequence[ModuleRef]:
        info.modules("cross_attn")
        return info.modules("transformer")

    def cost(self, request: EraseRequest, options: ACEOptions) -> Cost:
        rolled, kept = self.trajectories(request, options), options.kept(request)
        batch = options.batch * (2 + options.prior_batch) + 2 * options.keep_batch * (kept > 0)
        forwards = rolled * (2 * options.steps + options.harvest * options.prior_batch) + 2 * options.steps * kept
        return Cost(forwards, batch, (rolled + kept) * options.harvest)

    def searches(self, request: EraseRequest, options: ACEOptions) -> bool:
        return super().searches(request, options) or not (options.priors or request.preserve)

    def notes(self, request: EraseRequest, options: ACEOptions) -> Sequence[str]:
        return ("protects only where classifier-free guidance above 1 is used",)

    def prepare(self, run: TrainingRun) -> SimpleNamespace:
        """Teacher states of the concepts, each with some priors, their scores and their predictions."""
        import torch

        from erase_plugins.training.priors import chosen_priors, prior_scores

        options, target, ctx = run.options, run.target, run.ctx
        named = (*options.priors, *run.request.preserve)
        priors = chosen_priors(target, run.phrases, run.request.concepts, named, options.prior_words, options.near, ctx)
        run.rollout.check(priors)
        scores = prior_scores(options.scores, target, run.phrases, priors)
        prompts = run.prompts()
        drawn = [
            torch.randint(len(priors), (options.prior_batch,), generator=ctx.generator(f"priors {place}")).tolist()
            for place in range(len(prompts))
        ]
        texts = [[options.templates[place % len(options.templates)].format(priors[number]) for number in row]
                 for place, row in enumerate(drawn)]  # fmt: skip
        columns = {f"prior {n}": [row[n] for row in texts] for n in range(options.prior_batch)}
        pool = run.pool("erase", prompts, columns)
        gammas = torch.tensor([[scores[number] for number in row] for row in drawn], device=target.device)
        encoded = {name: target.encode(column) for name, column in columns.items()}
        self._warn(pool.states, gammas, run)
        return SimpleNamespace(pool=pool, gammas=gammas, encoded=encoded, null=run.rollout.blank(2))

    def loss(self, run: TrainingRun, step: int) -> Tensor:
        from erase_plugins.engine.trajectories import picked

        options, gammas, encoded, null = run.options, run.state.gammas, run.state.encoded, run.state.null
        states, cond = run.state.pool.batch(options.batch, step)
        seen, rows = states.predictions, states.row
        others = [seen[name] for name in encoded]
        moved = null_target(seen["null"], seen["prompt"], others, gammas[rows], options)
        erased = seen["null"] - options.eta * (seen["prompt"] - seen["null"])
        parts: list[Any] = [(states, picked(null, rows), moved, options.null_weight),
                 (states, cond, erased, options.erase_weight)]  # fmt: skip
        for name, other in zip(encoded, others, strict=True):
            parts.append((states, encoded[name][rows.tolist()], other, options.prior_weight / options.prior_batch))
        for held in run.retain(step):  # with and without prompt
            before = held.states.predictions["null"]
            parts += [held, (held.states, picked(null, held.states.row), before, held.weight)]
        return run.mean_squares(parts)

    def _warn(self, states: Any, gammas: Tensor, run: TrainingRun) -> None:
        """Tells when the prior correction turns the shift of the prediction without a prompt around."""
        import torch

        options, seen = run.options, states.predictions
        others = [seen[f"prior {n}"] for n in range(options.prior_batch)]
        shift = null_target(seen["null"], seen["prompt"], others, gammas[states.row], options) - seen["null"]
        towards = torch.cosine_similarity(shift.flatten(1), (seen["prompt"] - seen["null"]).flatten(1)).mean()
        if options.eta_null > 0 and float(towards) <= 0:
            run.ctx.note(
                f"the priors cancel the shift without a prompt (cosine {float(towards):.2f}); lower eta_prior or name "
                "priors that are less like the target"
            )


@hookimpl
def erase_methods() -> list[ACE]:
    return [ACE()]
