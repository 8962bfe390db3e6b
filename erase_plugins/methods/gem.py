"""GEM: geometric erasure by contrastive velocity matching (Grebe et al., ICML 2026, arXiv 2606.00140).

On states of trajectories towards the concept the student's prediction v is pulled to the frozen model's prediction for
a harmless rewording, until it lies so much closer to that than to the prediction for the concept:

    L = max(0, |v - v_anchor|^2 - eta |v - v_target|^2)

for the steps before the share ``early`` of the sampler. Once the hinge is shut a state trains no further, so that no
more is changed than erasing needs.

Written from the equation in a summary of the paper; its code was not read. Differs from what is known of it:
    - the paper is for flow transformers, this takes whatever a model predicts (noise, or a velocity); squares are means
      over a picture's values;
    - without ``--to`` the rewording is the prompt without the concept, or 'art', 'a person' by kind;
    - trajectories of the frozen model, harvested once, and a LoRA;
    - what is named with --keep and ``keep_words`` words are held at the teacher's predictions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from erase_plugins.hookspecs import hookimpl
from erase_plugins.options import option
from erase_plugins.training import TrainedMethod, TrainingOptions, TrainingRun

if TYPE_CHECKING:
    from torch import Tensor

    from erase_plugins.families.base import ModuleRef, TargetInfo


@dataclass(frozen=True)
class GEMOptions(TrainingOptions):
    """Options of GEM."""

    presets = "../presets/gem.toml"

    eta: float = option(1.0, "squared distance from the rewording over that from the concept at which it stops: 1 is "
                        "half way, 0 all of it", low=0.0, high=100.0, searched=(0.01, 1.0))  # fmt: skip
    early: float = option(0.6, "share of the sampler steps that are trained", low=0.01, high=1.0)
    templates: tuple[str, ...] = option(("{}", "a {}", "a {} picture"), "prompts trained on; {} is the concept")

    @property
    def first(self) -> int:
        """Number of sampler steps that are trained."""
        return max(round(self.early * self.steps), 1)


class GEM(TrainedMethod):
    """Pulls early predictions for the concept to those of a rewording, as far as a hinge asks."""

    id = "gem"
    title = "Geometric erasure by contrastive velocity matching"
    paper = "https://arxiv.org/abs/2606.00140"
    summary = "pulls early predictions for the concept to those of a harmless rewording until they are closer to it"
    needs = frozenset({"denoiser", "text"})
    Options = GEMOptions

    def modules(self, info: TargetInfo, options: GEMOptions) -> Sequence[ModuleRef]:
        return [ref for ref in info.modules("cross_attn") if ref.kind == "linear"]

    def prepare(self, run: TrainingRun) -> Any:
        """States towards the concept, with the predictions for its rewording."""
        from erase_plugins.engine.collect import guide_of

        guides = {
            phrase: guide_of(concept)
            for concept in run.request.concepts
            for phrase in (concept.text, *concept.prompts)
        }  # fmt: skip
        prompts = run.prompts()
        once = [template.format(guides[phrase]) for template in run.options.templates for phrase in run.phrases]
        anchors = [" ".join(text.split()) for text in once * (len(prompts) // len(once))]
        early = run.options.first
        return run.rollout.pool("erase", prompts, run.key, {"anchor": anchors}, early=early)

    def loss(self, run: TrainingRun, step: int) -> Tensor:
        from erase_plugins.engine.trajectories import ask

        states, cond = run.state.batch(run.options.batch, step)
        v = ask(run.target, states.inputs, states.timestep, cond, run.ctx)
        seen = states.predictions
        total = hinge(v.float(), seen["anchor"].float(), seen["prompt"].float(), run.options.eta).mean()
        kept = run.retain(step)
        return total + run.mean_squares(kept) if kept else total


def hinge(v: Tensor, anchor: Tensor, target: Tensor, eta: float) -> Tensor:
    """max(0, |v - anchor|^2 - eta |v - target|^2) of every sample, (batch,) from (batch, ...)."""
    near, far = ((v - other).square().flatten(1).mean(1) for other in (anchor, target))
    return (near - eta * far).clamp_min(0)


@hookimpl
def erase_methods() -> list[GEM]:
    return [GEM()]
