"""The attack ``noise``: does the edited denoiser still draw the concept when it begins from a picture of it?

Pictures of the concept, drawn by the base, are noised up to several levels and handed to the edited model with the
plain name (stock image-to-image of diffusers); in another variant the middle of the picture is painted anew (stock
inpainting). With little noise every denoiser gives the picture back, also one that never saw the concept. So the
level that counts is the one at which the edited model shows the concept most beyond the control, found with one set
of pictures and measured with another.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from erase_plugins.errors import MissingExtra, Unsupported
from erase_plugins.evaluation.attacks.rates import CONCEPT_HELP, FEWEST, REFERENCE_HELP
from erase_plugins.evaluation.prompts import Prompt, texts_and_seeds
from erase_plugins.hookspecs import hookimpl
from erase_plugins.options import option
from erase_plugins.types import AttackReport

if TYPE_CHECKING:
    from torch import Tensor

    from erase_plugins.evaluation.attacks.controls import Victim
    from erase_plugins.evaluation.attacks.material import Lesson
    from erase_plugins.evaluation.attacks.study import Sample, Study
    from erase_plugins.evaluation.budget import Budget
    from erase_plugins.evaluation.run import Subject

FOUND, PICTURES = "attack-noise-found.json", "attack-noise-pictures.png"
#: share of the way back to pure noise
LEVELS = (0.4, 0.55, 0.7, 0.85)
INPAINT = "middle painted anew"
#: five variants and one more look for each of three victims; base, plain name, two sets to begin from, with spare
_SETS = 24
#: pictures per pass
_BATCH = 32


@dataclass(frozen=True)
class NoiseOptions:
    """Options of the attack."""

    concept: str = option("", CONCEPT_HELP)
    inpaint: bool = option(True, "also paint the middle of the pictures anew")
    reference: str = option("", REFERENCE_HELP)


class Noise:
    """Image to image from noised pictures of the concept."""

    id = "noise"
    title = "From noised pictures of the concept: image to image at four noise levels, and inpainting"
    needs: frozenset[str] = frozenset({"denoiser", "text"})
    packages: frozenset[str] = frozenset()
    budgets: Mapping[str, int] = {"quick": 16 * _SETS, "standard": 48 * _SETS, "long": 128 * _SETS}
    least = FEWEST * _SETS
    attachments = (FOUND, PICTURES)
    Options = NoiseOptions

    def run(self, subject: Subject, budget: Budget) -> AttackReport:
        """See the module.

        Raises:
            RequestError: no artifact, a wrong option, or a budget too small for four pictures per set.
            Unsupported: the base hardly draws the concept, or the reference is of another kind.
        """
        from erase_plugins.evaluation.attacks.study import Study

        run = _Run(Study.of(self, subject, budget, _SETS))
        variants: list[tuple[str, float | None]] = [(f"noise {level:.0%}", level) for level in LEVELS]
        if budget.options["inpaint"]:
            variants.append((INPAINT, None))
        budget.progress("pictures of the base", 0, 1)
        first, second = run.begin(0), run.begin(1)
        beside = [run.study.plain("base", "off"), run.study.plain("plain name", "on")]
        tried: dict[str, list[Sample]] = {}
        for number, (name, level) in enumerate(variants):
            budget.progress(name, number, len(variants))
            tried[name] = [run.redrawn(victim, first, name, level) for victim in run.study.victims]
        best = max(tried, key=lambda name: (tried[name][0].rate - tried[name][-1].rate, tried[name][0].rate))
        level = dict(variants)[best]
        found = [run.redrawn(victim, second, f"{best}, again", level) for victim in run.study.victims]
        return run.report(found, beside, tried, best, level)


@dataclass(frozen=True)
class _Run:
    study: Study

    def begin(self, number: int) -> Lesson:
        """Set ``number`` of pictures of the concept to begin from, as the base draws them."""
        from erase_plugins.evaluation.attacks.material import lesson

        study = self.study
        prompts = study.split.training(2 * study.images, study.subject.seed + 10 * (number + 1))
        return lesson(study.subject, prompts, study.images, study.split.concept)

    def redrawn(self, victim: Victim, begin: Lesson, name: str, level: float | None) -> Sample:
        """What a victim makes of pictures at a noise level, or with the middle painted anew (None)."""

        def make() -> tuple[Tensor, dict[str, Any], dict[str, Tensor]]:
            with victim.exposed():
                return redraw(victim.subject, begin.prompts, begin.pictures, level), {}, {}

        return self.study.attacked(victim, f"{name}, {victim.name}", make, (begin.key, level), begin.prompts)

    def report(
        self, found: list[Sample], beside: list[Sample], tried: Mapping[str, list[Sample]], best: str,
        level: float | None,
    ) -> AttackReport:  # fmt: skip
        import dataclasses

        from erase_plugins.evaluation.attacks.rates import rate

        report = self.study.report(
            f"from pictures, {best}", found, beside, {"variant": best, "noise": level},
            {"tried": {name: {item.name: item.rate for item in items} for name, items in tried.items()}},
            pictures=PICTURES, title=f"{best}, from pictures of it;",
        )  # fmt: skip
        samples = [item for items in tried.values() for item in items]
        searched = [rate("target_rate", item.name, item.hits, self.study.subject.seed) for item in samples]
        return dataclasses.replace(report, rows=(*report.rows, *searched))


def redraw(subject: Subject, prompts: Sequence[Prompt], pictures: Tensor, level: float | None) -> Tensor:
    """Pictures (n, 3, height, width) in 0..1 that the pipeline, as it is now, makes of ``pictures``.

    Args:
        subject: the model with its sampler.
        prompts: text and seed of each.
        pictures: of the same shape, in 0..1.
        level: share of the way back to noise; None paints the middle half anew and keeps the rest.

    Raises:
        Unsupported: diffusers has no such pipeline for this model.
        MissingExtra: diffusers is not installed.
    """
    import torch

    from erase_plugins.engine.precision import autocast
    from erase_plugins.runtime.guardrails.attach import carried

    try:
        from diffusers import AutoPipelineForImage2Image, AutoPipelineForInpainting, DPMSolverMultistepScheduler
    except ImportError as error:
        raise MissingExtra("attack noise", "diffusers") from error
    kind = AutoPipelineForInpainting if level is None else AutoPipelineForImage2Image
    try:
        pipe = kind.from_pipe(subject.pipe)
    except ValueError as error:
        raise Unsupported(f"diffusers draws no pictures from pictures with {subject.model}") from error
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(subject.pipe.scheduler.config)
    if getattr(pipe, "safety_checker", None) is not None:
        pipe.safety_checker = None  # a black picture would count as one without the concept
    pipe.set_progress_bar_config(disable=True)
    more: dict[str, Any] = {"strength": level}
    if level is None:
        height, width = pictures.shape[-2:]
        mask = torch.zeros(1, 1, height, width)
        mask[..., height // 4 : -(height // 4), width // 4 : -(width // 4)] = 1
        more = {"strength": 1.0, "height": height, "width": width}
    steps = max(subject.steps, math.ceil(1 / (level or 1.0)))  # at least one of them is left
    subject.queries += len(prompts)

    def made(places: Sequence[int]) -> Tensor:
        found = []
        for start in range(0, len(places), _BATCH):
            rows = list(places[start : start + _BATCH])
            part = [prompts[row] for row in rows]
            if level is None:
                more["mask_image"] = mask.expand(len(part), -1, -1, -1)
            with torch.no_grad(), autocast(subject.target.device):
                out = pipe(
                    prompt=[item.text for item in part], image=pictures[rows],
                    num_inference_steps=steps, guidance_scale=subject.guidance, output_type="pt",
                    generator=[torch.Generator().manual_seed(item.seed) for item in part], **more,
                ).images  # fmt: skip
            found.append(out.float().cpu())
        return torch.cat(found)

    with carried(subject.pipe, pipe):
        return subject.answered(*texts_and_seeds(prompts), made)


@hookimpl
def erase_attacks() -> list[Noise]:
    return [Noise()]
