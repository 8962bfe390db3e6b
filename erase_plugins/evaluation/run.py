"""Runs a suite on a model with artifacts: picks the judge, remembers the base, writes what the suite returns."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from erase_plugins.artifacts.artifact import Artifact, load_artifact
from erase_plugins.artifacts.locks import claim_files
from erase_plugins.errors import RequestError, Unsupported
from erase_plugins.evaluation.attachments import output_names
from erase_plugins.evaluation.context import REPORT, Progress, needs_judge, needs_subject, run_alone, run_in_context
from erase_plugins.evaluation.draw import draw
from erase_plugins.families.diffusers_target import DiffusersTarget
from erase_plugins.families.loading import load_pipeline
from erase_plugins.manager import get_manager
from erase_plugins.runtime.apply import apply_all
from erase_plugins.types import EvalReport

_BASE_CACHE: OrderedDict[tuple[Any, ...], Any] = OrderedDict()
_CACHED_SETS = 16
#: states of a subject: with its edit, without it, and as a model that cannot make anything sensible
ON, OFF, DESTROYED = "on", "off", "destroyed"
#: what subjects make and judges look at unless they say otherwise
IMAGE = "image"


@dataclass
class Subject:
    """What a suite measures or an attack attacks: a model with artifacts, a judge, and settings of the measurement.

    ``judge`` is None for a suite that needs none. ``queries`` counts what `generate` was asked for.
    """

    #: what `generate` returns: "image", later "text" or "logits"
    modality: ClassVar[str] = IMAGE
    pipe: Any
    target: DiffusersTarget
    model: str
    artifacts: list[Artifact]
    judge: Any
    erased: list[str]
    strength: float = 1.0
    images: int = 32
    seed: int = 0
    steps: int = 8
    guidance: float = 4.0
    any_base: bool = False
    progress: Progress | None = None
    drawn: Any = field(default=None, repr=False)
    queries: int = 0
    _stage: str = "base"

    def generate(
        self, inputs: Sequence[str], seeds: Sequence[int], *, edit: str = ON, strength: float | None = None
    ) -> Tensor:
        """What the model makes of ``inputs``: pictures (n, 3, height, width) in 0..1 from a text-to-image model.

        Args:
            inputs, seeds: one of each per answer.
            edit: "on", "off", or "destroyed" (a control: the base with its value projections shuffled).
            strength: of the edit when it is on; the subject's own if None.

        Raises:
            RequestError: another word for ``edit``, or called inside of a with-block of `edited` or `destroyed`.
        """
        if self._stage != "base":
            raise RequestError(f"generate() was called inside of a with-block ({self._stage}); use draw() there")
        with self.under(edit, strength):
            self.queries += len(inputs)
            return self.draw(inputs, seeds)

    def under(self, edit: str, strength: float | None = None) -> AbstractContextManager[None]:
        """The with-block of a state: "on", "off" or "destroyed"."""
        if edit not in (ON, OFF, DESTROYED) or (edit != ON and strength is not None):
            raise RequestError(f"edit={edit!r}, strength={strength!r}; edit is on (with a strength), off or destroyed")
        return self.edited(strength) if edit == ON else self.destroyed() if edit == DESTROYED else nullcontext()

    def draw(self, prompts: Sequence[str], seeds: Sequence[int]) -> Tensor:
        """Pictures of the pipeline as it is now, (n, 3, height, width) in 0..1."""
        report = self.progress
        hook = None if report is None else (lambda done, total: report(self._stage, done, total))
        return draw(self.pipe, prompts, seeds, steps=self.steps, guidance=self.guidance, progress=hook)

    @contextmanager
    def edited(self, strength: float | None = None) -> Iterator[None]:
        """The artifacts in force for the length of a with-block."""
        self._stage = "edited" if strength is None else f"strength {strength:g}"
        handles = apply_all(
            self.pipe, self.artifacts, self.strength if strength is None else strength, any_base=self.any_base
        )
        try:
            yield
        finally:
            for handle in reversed(handles):
                handle.remove()
            self._stage = "base"

    @contextmanager
    def destroyed(self) -> Iterator[None]:
        """Output channels of all value projections shuffled, for the length of a with-block."""
        self._stage = "destroyed"
        generator = torch.Generator().manual_seed(1)
        parameters = [self.target.module(ref).get_parameter("weight") for ref in self.target.modules("cross_v")]
        before = [parameter.data for parameter in parameters]
        try:
            for parameter, weight in zip(parameters, before, strict=True):
                order = torch.randperm(weight.shape[0], generator=generator)
                parameter.data = weight[order].contiguous()
            yield
        finally:
            for parameter, weight in zip(parameters, before, strict=True):
                parameter.data = weight
            self._stage = "base"

    def remembered(self, sets: Any, make: Callable[[Subject, Any], Any], tag: str) -> Any:
        """What ``make`` gives without any artifact; remembered per base, tag, prompts and sampler."""
        key = (
            tag,
            tuple((name, item.short) for name, item in sorted(self.target.fingerprint().items())),
            str(self.target.dtype), getattr(self.judge, "fingerprint", ""), self.steps, self.guidance,
            tuple((name, item.text, item.seed) for name, items in sets.items() for item in items),
        )  # fmt: skip
        if key in _BASE_CACHE:
            _BASE_CACHE.move_to_end(key)
            return _BASE_CACHE[key]
        _BASE_CACHE[key] = make(self, sets)
        while len(_BASE_CACHE) > _CACHED_SETS:
            _BASE_CACHE.popitem(last=False)
        return _BASE_CACHE[key]


def pick_judge(target: DiffusersTarget, wanted: str | None) -> Any:
    """The named judge, or the first registered one that accepts the model.

    Raises:
        UnknownName: no judge of that name.
        Unsupported: none accepts the model.
    """
    manager = get_manager()
    if wanted is not None:
        chosen = manager.evaluator(wanted, "judge")
        if modality(chosen) != Subject.modality:
            raise Unsupported(f"judge '{wanted}' looks at {modality(chosen)}, and this model makes {Subject.modality}s")
        return chosen
    judges = [entry.item for entry in manager.evaluators("judge")]
    for judge in judges:
        if modality(judge) == Subject.modality and judge.accepts(target.info):
            return judge
    names = ", ".join(judge.id for judge in judges)
    raise Unsupported(f"no registered judge knows what {target.info.model} draws (registered: {names or 'none'})")


def modality(judge: Any) -> str:
    """What a judge looks at: "image" unless it says otherwise."""
    return str(getattr(judge, "modality", IMAGE))


def run_suite(
    model: Any,
    artifacts: Sequence[Artifact | str | Path],
    suite: str,
    *,
    strength: float = 1.0,
    out: Path | None = None,
    force: bool = False,
    erased: Sequence[str] = (),
    judge: str | None = None,
    progress: Progress | None = None,
    images: int = 32,
    seed: int = 0,
    steps: int = 8,
    guidance: float = 4.0,
    any_base: bool = False,
    settings: Mapping[str, Any] | None = None,
    **load: Any,
) -> EvalReport:
    """Runs a registered suite.

    Args:
        model: name, path, Hub id or pipeline (left as it was); None for a suite that needs no subject.
        artifacts: applied together.
        suite: id of the suite.
        strength: of the artifacts.
        out: folder for the files.
        force: replace files of an earlier evaluation.
        erased: concepts to look for; those that the artifacts name if empty.
        judge: id of a judge; chosen by the model if None.
        progress: called with (stage, done, total).
        images: pictures per prompt set.
        seed: of prompts, noise and resampling.
        steps, guidance: sampler.
        any_base: allow a fine-tune of the artifacts' base.
        settings: options of the suite.
        load: revision, dtype, device for a model given by name.

    Raises:
        EraseError: unknown suite or judge, nothing to look for, unsupported model, existing files.
    """
    runner = get_manager().evaluator(suite, "suite")
    if not needs_subject(runner):
        if model is not None or artifacts or erased or judge is not None:
            raise RequestError(f"suite {suite} measures no model; give it no model, artifacts, concepts or judge")
        return run_alone(
            runner, settings or {}, out=out, force=force, seed=seed, device=load.get("device", "cpu"), progress=progress
        )
    if model is None:
        raise RequestError(f"suite {suite} measures a model; name one, for example pocket")
    if judge is not None and not needs_judge(runner):
        raise RequestError(f"suite {suite} asks no judge; leave out judge {judge}")
    names = output_names(runner, REPORT)
    with nullcontext() if out is None else claim_files(out, names, force):
        subject = open_subject(
            model, artifacts, runner, strength=strength, erased=erased, judge=judge, progress=progress, images=images,
            seed=seed, steps=steps, guidance=guidance, any_base=any_base, **load,
        )  # fmt: skip
        report = run_in_context(
            runner, subject, settings or {}, seed=seed, device=str(subject.target.device), progress=progress, out=out,
            force=force,
        )  # fmt: skip
    return report


def open_subject(
    model: Any,
    artifacts: Sequence[Artifact | str | Path],
    runner: Any,
    *,
    strength: float = 1.0,
    erased: Sequence[str] = (),
    judge: str | None = None,
    progress: Progress | None = None,
    images: int = 32,
    seed: int = 0,
    steps: int = 8,
    guidance: float = 4.0,
    any_base: bool = False,
    **load: Any,
) -> Subject:
    """Loads artifacts and model, and picks the judge, for a suite or an attack (``runner``).

    Raises:
        RequestError: nothing to look for, or no picture.
        EraseError: what loading and `pick_judge` raise.
    """
    loaded = [load_artifact(item) for item in artifacts]
    names = list(dict.fromkeys([*erased, *(text for item in loaded if not erased for text in item.manifest.erased)]))
    asks = needs_judge(runner)
    if asks and not names:
        raise RequestError("nothing to look for: give an artifact that names its concepts, or --erased TEXT")
    if images < 1:
        raise RequestError(f"images={images}; at least one picture per set is needed")
    pipe = load_pipeline(str(model), **load) if isinstance(model, str | Path) else model
    target = DiffusersTarget(pipe, str(model) if isinstance(model, str | Path) else None)
    return Subject(
        pipe, target, target.info.model, loaded, pick_judge(target, judge) if asks else None, names, strength, images,
        seed, steps, guidance, any_base, progress,
    )  # fmt: skip
