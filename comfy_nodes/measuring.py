"""A registered suite on the connected model: pictures are drawn by ComfyUI's own sampler, everything else is shared."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

from erase_plugins.errors import RequestError
from erase_plugins.evaluation import attack as attacks
from erase_plugins.evaluation.context import run_in_context
from erase_plugins.evaluation.draw import initial_noise
from erase_plugins.evaluation.run import Subject
from erase_plugins.families.target import Conditioning
from erase_plugins.stack import stack_of
from erase_plugins.types import AttackReport, EvalReport
from erase_plugins.workflow.measure import pick_judge

from . import host
from .guards import check_measurable
from .stacking import put_on
from .target import ComfyTarget
from .targets import target_of

_BATCH = 16
SAMPLER, SCHEDULER = "dpmpp_2m", "karras"


@dataclass
class GraphSubject(Subject):
    """What a suite measures, in the graph: MODEL and CLIP as they are now, and the VAE."""

    clip: Any = None
    vae: Any = None
    now: tuple[Any, Any] = field(default=(None, None), repr=False)

    def draw(self, prompts: Any, seeds: Sequence[int] = (), cond: Conditioning | None = None) -> Tensor:
        model, clip = self.now
        target = target_of(model, clip)
        shape = target.drawn
        pictures = []
        for start in range(0, len(prompts), _BATCH):
            texts = [_fitting(target, text) for text in prompts[start : start + _BATCH]]
            noise = torch.stack([initial_noise(seed, shape) for seed in seeds[start : start + _BATCH]])
            own = target.encode(texts) if cond is None else cond[slice(start, start + _BATCH)]
            rows, blank = own.embeds, target.encode([""]).embeds
            latents = _sample(model, noise, rows, blank.expand_as(rows), self.steps, self.guidance)
            pictures.append(self.vae.decode(latents)[..., :3].float().cpu().movedim(-1, 1).clone())
            if self.progress is not None:
                self.progress(self._stage, min(start + _BATCH, len(prompts)), len(prompts))
        return torch.cat(pictures)

    def of_another(self, pipe: Any, target: Any) -> Subject:
        """A model beside the graph: its own pipeline draws it, with the same sampler and from the same noise."""
        plain = Subject(**{item.name: getattr(self, item.name) for item in fields(Subject) if item.init})
        return plain.of_another(pipe, target)

    @contextmanager
    def edited(self, strength: float | None = None) -> Iterator[None]:
        self._stage = "edited" if strength is None else f"strength {strength:g}"
        before = self.now
        factor = self.strength if strength is None else strength
        for artifact in self.artifacts:
            done = put_on(*self.now, stack_of(artifact), strength=factor, any_base=self.any_base)
            self.now = (done.model, done.clip)
        try:
            yield
        finally:
            self.now, self._stage = before, "base"

    @contextmanager
    def destroyed(self) -> Iterator[None]:
        self._stage = "destroyed"
        model, clip = self.now
        generator = torch.Generator().manual_seed(1)
        clone, target = model.clone(), target_of(model)
        for ref in target.modules("cross_v"):
            order = torch.randperm(ref.shape[0], generator=generator)
            clone.add_weight_wrapper(target.key("unet", ref.weight), _shuffle(order))
        self.now = (clone, clip)
        try:
            yield
        finally:
            self.now, self._stage = (model, clip), "base"

    def remembered(self, sets: Any, make: Callable[[Subject, Any], Any], tag: str, kind: Any = None) -> Any:
        """Remembered in this process only: what is patched here has a name that no other process knows."""
        model, clip = self.now
        return super().remembered(sets, make, f"{tag} {model.patches_uuid} {clip.patcher.patches_uuid}")


def _fitting(target: ComfyTarget, text: str) -> str:
    """A prompt without the words at its end that the text encoder would not read; diffusers cuts them, too."""
    words = text.split()
    for count in range(len(words), 1, -1):
        try:
            target.tokens([" ".join(words[:count])])
        except RequestError:
            continue
        return text if count == len(words) else " ".join(words[:count])
    return text


def _shuffle(order: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda weight: weight[order.to(weight.device)]


def _sample(model: Any, noise: Tensor, rows: Tensor, blank: Tensor, steps: int, guidance: float) -> Tensor:
    import comfy.sample

    positive, negative = ([[part, {}]] for part in (rows, blank))
    return comfy.sample.sample(
        model, noise, steps, guidance, SAMPLER, SCHEDULER, positive, negative, torch.zeros_like(noise),
        callback=host.stop_if_asked, disable_pbar=True, seed=0,
    )  # fmt: skip


def graph_subject(
    model: Any, clip: Any, vae: Any, artifact: Any, erased: Sequence[str], **settings: Any
) -> GraphSubject:
    """What is measured or attacked; see `run_suite`."""
    check_measurable(artifact)
    target = target_of(model, clip)
    names = list(erased or artifact.manifest.erased)
    return GraphSubject(
        pipe=None, target=target, model=target.info.model, artifacts=[artifact],
        judge=pick_judge(target, None), erased=names, clip=clip, vae=vae, now=(model, clip), **settings,
    )  # fmt: skip


def run_attack(
    attack: str, budget: str, model: Any, clip: Any, vae: Any, artifact: Any, erased: Sequence[str], shown: int,
    reference: str = "", **settings: Any,
) -> tuple[AttackReport, Tensor]:  # fmt: skip
    """A registered attack by prompts on the connected model.

    Args:
        attack: id of an attack with ``only_asks``.
        budget: quick, standard or long.
        model, clip, vae, artifact, erased, settings: as for `run_suite`.
        shown: pictures at most that are drawn once more.
        reference: folder of a model that never saw the concept, for the control; none if empty.

    Returns:
        The report, and pictures (n, 3, height, width) of prompts that brought the concept back, or of its plain name
        where none did.

    Raises:
        RequestError: the attack takes no reference.
        Unsupported: no judge knows what the model draws, or it does not draw the concept itself; the reference is of
            another kind.
    """
    from erase_plugins.evaluation.attack_suite import with_reference
    from erase_plugins.evaluation.prompts import quick_prompts
    from erase_plugins.manager import get_manager

    runner = get_manager().evaluator(attack, "attack")
    options = with_reference(runner, reference)
    if reference and not options:
        raise RequestError(f"attack {attack} has no control on a reference model; leave 'reference' empty")
    subject = graph_subject(model, clip, vae, artifact, erased, **settings)
    report = attacks.run_attack(runner, lambda: subject, budget, settings=options, progress=subject.progress)
    plain = quick_prompts(subject.judge, subject.erased, shown, subject.seed)["target"]
    again = [(item["prompt"], item["seed"]) for item in report.found.get("prompts", [])][:shown]
    texts, seeds = zip(*(again or [(item.text, item.seed) for item in plain]), strict=True)
    return report, subject.generate(list(texts), list(seeds))


def run_suite(
    suite: str, model: Any, clip: Any, vae: Any, artifact: Any, erased: Sequence[str], **settings: Any
) -> tuple[EvalReport, Any]:
    """A registered suite on the connected model.

    Args:
        suite: id of the suite.
        model, clip, vae: without the erasure.
        artifact: the erasure.
        erased: concepts to look for; those of the artifact if empty.
        settings: strength, images, seed, steps, guidance, any_base, progress of `Subject`.

    Returns:
        The report, and what was drawn (for the contact sheet).

    Raises:
        Unsupported: no judge knows what the model draws.
    """
    from erase_plugins.manager import get_manager

    runner = get_manager().evaluator(suite, "suite")
    subject = graph_subject(model, clip, vae, artifact, erased, **settings)
    report = run_in_context(
        runner, subject, {}, seed=subject.seed, device=str(subject.target.device), progress=subject.progress
    )
    sampler = {**report.details.get("sampler", {}), "scheduler": f"{SAMPLER} {SCHEDULER}"}
    details = {**report.details, "sampler": sampler}
    return replace(report, details=details), subject.drawn
