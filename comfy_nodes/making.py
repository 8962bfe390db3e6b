"""Runs a method for a node: on the connected model or on a checkpoint, kept on disk, resumed after a stop."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from erase_plugins.api import build_request, run_and_save
from erase_plugins.artifacts.manifest import slug
from erase_plugins.engine.runner import plan_key
from erase_plugins.errors import ArtifactError, RequestError
from erase_plugins.families.source import POCKET
from erase_plugins.manager import get_manager
from erase_plugins.types import Concept, EditPlan
from erase_plugins.workflow.artifacts import load_artifact
from erase_plugins.workflow.models import as_target
from erase_plugins.workflow.run import make_plan

from . import files, host
from .identity import identity
from .previews import Drawing, decoder, pipeline_decoder
from .solved import solved
from .targets import target_of


@dataclass(frozen=True)
class Job:
    """What a node was asked for.

    Attributes:
        method: id of a registered method.
        concepts: what to erase.
        keep: prompts that stay.
        options: of the method, as they were written.
        seed: of everything random.
        checkpoint: a model to work on; empty for the connected one.
        preview_every: training steps between pictures.
    """

    method: str
    concepts: tuple[Concept, ...]
    keep: tuple[str, ...]
    options: dict[str, Any]
    seed: int
    checkpoint: str
    preview_every: int

    def made(self, model: Any, clip: Any, vae: Any) -> tuple[Any, list[str]]:
        """The artifact, and what there is to tell about how it came about.

        Raises:
            RequestError: no model to work on, or the request is wrong.
            Unsupported: the method needs what a connected model cannot give.
        """
        if self.checkpoint:
            owners = (None, None)
        elif model is None or clip is None:
            raise RequestError(
                "nothing to erase from; connect MODEL and CLIP, or name a model in 'checkpoint', for example pocket"
            )
        else:
            owners = (model, clip)
        return solved(*owners, self._question(owners[0]), lambda: self._make(model, clip, vae))

    def _question(self, model: Any) -> tuple[Any, ...]:
        hanging: dict[str, Any] = {}
        if model is not None:
            hanging = model.model_options.get("transformer_options", {}).get("patches", {})
        patches = tuple(patch for name in sorted(hanging) for patch in hanging[name])
        words = tuple((item.text, item.kind, item.anchor) for item in self.concepts)
        options = tuple(sorted((name, str(value)) for name, value in self.options.items()))
        place = self._place()
        named = files.stamp(place) if isinstance(place, Path) else self.checkpoint  # the file may be replaced meanwhile
        return ("method", self.method, words, self.keep, options, self.seed, self.checkpoint, named, patches)

    def _make(self, model: Any, clip: Any, vae: Any) -> tuple[Any, list[str]]:
        with host.computing(gradients=True):
            place = self._place()
            target = target_of(model, clip) if place is None else None
            name = target.info.model if target is not None else str(place)
            request = build_request(
                name, self.method, list(self.concepts), keep=self.keep, options=self.options, seed=self.seed,
                device=host.device() if target is None else str(target.device),
            )  # fmt: skip
            ready = make_plan(request, None if target is None else target.info)
            if target is None:
                target = as_target(name, dtype=ready.request.dtype, device=host.device())
                draw = Drawing(target, self.concepts[0].text, pipeline_decoder(target.pipe))
            else:
                draw = Drawing(target, self.concepts[0].text, decoder(model, vae))
            return self._run(ready, target, draw)

    def _place(self) -> Path | str | None:
        if not self.checkpoint:
            return None
        return POCKET if self.checkpoint == POCKET else files.find_model(self.checkpoint)

    def _run(self, ready: EditPlan, target: Any, draw: Drawing) -> tuple[Any, list[str]]:
        entry = next(item for item in get_manager().methods() if item.item.id == self.method)
        text = f"{plan_key(ready)} {identity(target)} {entry.package} {entry.version}"
        folder = folder_of("_".join(item.text for item in self.concepts[:3]), text)
        kept = f"kept in output/{host.FOLDER}/{folder.name}"
        earlier = made_earlier(folder)
        if earlier is not None:
            return earlier, [f"made earlier by the same request, {kept}"]
        with host.Progress(max(ready.steps, 1), draw, self.preview_every) as bar:
            artifact = run_and_save(
                ready, target, folder, layouts=("patch",), force=True, resume=True, listeners=(bar,), cancel=bar.cancel
            )
        shown = [f"{bar.pictures} pictures shown while training"] if bar.pictures else []
        return artifact, [*bar.notes, *shown, *([draw.problem] if draw.problem else []), kept]


def folder_of(words: str, asked: str, prefix: str = "") -> Path:
    """Where what a request makes is kept: its words for people, and a digest of everything that was asked."""
    digest = hashlib.sha256(asked.encode()).hexdigest()[:12]
    return host.work_folder() / f"{prefix}{slug(words)[:60]}_{digest}"


def made_earlier(folder: Path) -> Any:
    """The artifact that the same request made; None without one, or where it is damaged, and is made again."""
    try:
        return load_artifact(folder) if folder.exists() else None
    except ArtifactError:
        return None
