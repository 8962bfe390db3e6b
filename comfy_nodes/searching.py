"""``auto`` in the graph: methods and settings searched on the connected model, which is measured as it draws."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import erase_plugins
from erase_plugins.artifacts.artifact import Artifact
from erase_plugins.autotune.job import Host
from erase_plugins.autotune.run import PICTURE, TABLE, auto, search_folder
from erase_plugins.autotune.trials import counting
from erase_plugins.errors import RequestError, RunCancelled, Unsupported
from erase_plugins.families.base import Conditioning
from erase_plugins.options import resolve
from erase_plugins.stack import Entry
from erase_plugins.types import Concept

from . import chaining, host, needs
from .identity import identity
from .making import folder_of, made_earlier
from .nodes.methods import drawing_methods
from .search_options import AutoOptions
from .solved import solved
from .target import ComfyTarget
from .targets import target_of


@dataclass(frozen=True)
class Searched:
    """The artifact of the point that was taken, what there is to tell, its share of the concept that is left, and the
    picture of the front as the interface asks for it, if there is one."""

    artifact: Any
    lines: list[str]
    left: float
    picture: dict[str, str] | None


def searched(concept: Concept, keep: Sequence[str], given: Mapping[str, str], model: Any, clip: Any) -> Searched:
    """Searches for one concept on the connected model, or goes on where the same search was stopped.

    Args:
        concept: what is erased.
        keep: prompts that stay.
        given: options as they were written, see `search_options.AutoOptions`.
        model, clip: neither is changed.

    Raises:
        RequestError, Unsupported: no method fits, or the model cannot be measured here.
    """
    options = resolve(AutoOptions, given)
    question = ("auto", concept.text, concept.anchor, concept.kind, tuple(keep), repr(options))
    found: Searched = solved(model, clip, question, lambda: _search(concept, keep, options, model, clip))
    return found


def _search(concept: Concept, keep: Sequence[str], options: AutoOptions, model: Any, clip: Any) -> Searched:
    with host.computing(gradients=True):
        target = target_of(model, clip)
        if target.info.prediction == "flow":
            raise Unsupported(
                f"auto measures what the denoiser predicts, and {target.info.model} draws through ComfyUI's samplers "
                "alone; take a method that works in seconds, or run 'erase-plugins auto' in a terminal"
            )
        asked = repr((concept, tuple(keep), options, erase_plugins.__version__, identity(target)))
        folder = folder_of(concept.text, asked, "auto_")
        place = search_folder(folder)
        artifact = made_earlier(folder)
        if artifact is None:
            with host.Progress(100) as bar, host.as_cancelled():
                artifact = _auto(target, concept, keep, options, folder, bar).artifact
    facts = artifact.manifest.extra["auto"]
    taken = next(row for row in facts["front"] if row["trial"] == facts["taken"])
    kept = f"output/{host.FOLDER}/{place.name}"
    lines = [
        f"auto took {taken['label']}: {100 * taken['left']:.1f} % of the direction towards '{concept.text}' is left, "
        f"everything else changed by {taken['change']:.3f} (0: not at all, 1: as without a prompt)",
        f"{counting(facts['trials'])} done in {facts['seconds']:.0f} s; ended because {facts['stopped']}",
        f"all trials: {kept}/{TABLE}",
    ]
    shown = {"filename": PICTURE, "subfolder": f"{host.FOLDER}/{place.name}", "type": "output"}
    return Searched(artifact, lines, taken["left"], shown if (place / PICTURE).is_file() else None)


def _auto(
    target: ComfyTarget, concept: Concept, keep: Sequence[str], options: AutoOptions, folder: Any, bar: host.Progress
) -> Any:
    began = time.monotonic()

    def tell(_label: str, _done: int, _most: int) -> None:
        if bar.stopped():
            raise RunCancelled("stopped")
        bar.bar.update_absolute(min(99, round(100 * (time.monotonic() - began) / (60 * options.minutes))))

    wanted = options.listed("methods") or [
        entry.item.id for entry in drawing_methods() if needs.problem(entry.item) is None
    ]
    try:
        return auto(
            target, concept, methods=wanted, also=options.listed("also"), keep=list(keep), minutes=options.minutes,
            seed=options.seed, out=folder, force=True, progress=tell,
            host=Host(SampledTarget(target.model, target.clip), _edited(target), bar.stopped),
        )  # fmt: skip
    except RequestError as error:
        if bar.stopped():  # before the first trial was done
            raise RunCancelled("stopped") from error
        raise


def _edited(target: ComfyTarget) -> Callable[[Artifact], Any]:
    @contextmanager
    def edited(artifact: Artifact) -> Iterator[ComfyTarget]:
        done = chaining.put_on(target.model, target.clip, (Entry(artifact, 1.0),), fresh=True)  # as the node does
        yield SampledTarget(done.model, done.clip)

    return edited


class SampledTarget(ComfyTarget):
    """Predictions as ComfyUI's samplers ask for them, under everything that hangs on the MODEL; makes no copy of it."""

    def predict(self, latents: Tensor, timestep: Tensor | float, cond: Conditioning) -> Tensor:
        import comfy.samplers

        rows = [[cond.embeds, self.beside(latents, cond)]]
        states = _States(self.model.get_model_object("model_sampling"), latents, timestep)
        blank = torch.zeros_like(latents)
        with host.as_cancelled(), torch.no_grad():
            comfy.samplers.sample(
                self.model, blank, rows, rows, 1.0, self.model.load_device, comfy.samplers.KSAMPLER(states.ask),
                torch.tensor([1.0, 0.0]), model_options=self.model.model_options, latent_image=blank,
                disable_pbar=True, seed=0,
            )  # fmt: skip
        return states.predicted


class _States:
    """A sampler that asks the model about given states instead of drawing.

    Args:
        sampling: of the MODEL.
        inputs: as the denoiser is given them (n, channels, height, width).
        timestep: of each, or of all.
    """

    def __init__(self, sampling: Any, inputs: Tensor, timestep: Tensor | float) -> None:
        times = torch.as_tensor(timestep, device=inputs.device).float().expand(len(inputs))
        self.sampling, self.sigma = sampling, sampling.sigma(times)
        self.x = inputs / sampling.calculate_input(self.sigma, torch.ones_like(inputs))
        self.predicted = inputs

    def ask(self, model: Any, x: Tensor, _sigmas: Tensor, extra_args: Mapping[str, Any], **_: Any) -> Tensor:
        """Leaves what the denoiser says in ``predicted``: a sampler gets pictures, which are linear in it."""
        picture = model(self.x, self.sigma, **extra_args)
        start = self.sampling.calculate_denoised(self.sigma, torch.zeros_like(picture), self.x)
        slope = self.sampling.calculate_denoised(self.sigma, torch.ones_like(picture), self.x) - start
        self.predicted = ((picture - start) / slope).float()
        return x
