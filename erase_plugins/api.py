"""The functions that users call: load, plan, erase, generate, evaluate."""

from __future__ import annotations

import math
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from erase_plugins.artifacts.artifact import Artifact
from erase_plugins.artifacts.locks import claim
from erase_plugins.concept_text import one_phrase
from erase_plugins.engine.checkpoint import check_resume, clear
from erase_plugins.engine.context import Listener
from erase_plugins.engine.distributed import is_main
from erase_plugins.engine.own_preset import OwnPreset, carried
from erase_plugins.errors import RequestError
from erase_plugins.families.capabilities import DENOISER
from erase_plugins.families.loading import AUTO
from erase_plugins.families.model import Model
from erase_plugins.given import checked
from erase_plugins.types import AttackReport, Concept, DataRef, EditPlan, EraseRequest, EvalReport
from erase_plugins.workflow.artifacts import load_artifact
from erase_plugins.workflow.found import FoundModel
from erase_plugins.workflow.models import as_target, dtype_of, find_model, load_pipeline
from erase_plugins.workflow.run import is_light, judges, make_plan, run_plan

#: a user's own preset: a TOML file, a mapping of the same shape, or one that was read already
Preset = str | Path | Mapping[str, Any] | OwnPreset | None
#: what a model that is given by name can be loaded with
_HOW_TO_LOAD = frozenset({"revision", "dtype", "device", "family", "light"})


@checked
def load(model: str | Path = "pocket", *, revision: str | None = None, dtype: str = AUTO, device: str = "cpu") -> Any:
    """A stock diffusers pipeline: the embedded "pocket" model, a folder, a checkpoint file or a Hub id.

    Args:
        model: name, path or Hub id.
        revision: Hub revision.
        dtype: float32, float16 or bfloat16; auto is float32, but for language models on accelerators what their
            configuration says, where float32 would take more than a GiB.
        device: torch device name.

    Raises:
        RequestError, Unsupported, HubError: see `erase_plugins.workflow.models.load_pipeline`.
    """
    return load_pipeline(str(model), revision, dtype, device)


@checked
def build_request(
    model: Any,
    method: str,
    concepts: str | Concept | Sequence[str | Concept],
    *,
    keep: Sequence[str | DataRef] = (),
    to: str | None = None,
    kind: str = "object",
    options: dict[str, Any] | None = None,
    preset: Preset = None,
    seed: int = 0,
    revision: str | None = None,
    family: str | None = None,
    dtype: str = AUTO,
    device: str = "cpu",
    out: str | Path | None = None,
) -> EraseRequest:
    """A request from loosely typed arguments; see `erase`."""
    items = [concepts] if isinstance(concepts, str | Concept) else list(concepts)
    return EraseRequest(
        model=str(model) if isinstance(model, str | Path) else "pipeline",
        forget=tuple(
            item if isinstance(item, Concept) else Concept(one_phrase(item), kind, anchor=to) for item in items
        ),
        method=method,
        options=dict(options or {}),
        retain=tuple(keep),
        revision=revision,
        family=family,
        seed=seed,
        device=device,
        dtype=dtype,
        out=None if out is None else str(out),
        extra=carried(preset),
    )


def plan(model: Any, concepts: Any, method: str = "uce", **arguments: Any) -> EditPlan:
    """What `erase` with the same arguments would do; loads no weights when ``model`` is a name."""
    request = build_request(model, method, concepts, **arguments)
    found = _found(model, request)
    return make_plan(_as_loaded(request, found), found.info)


@checked
def erase(
    model: Any,
    concepts: str | Concept | Sequence[str | Concept],
    method: str = "uce",
    *,
    keep: Sequence[str | DataRef] = (),
    to: str | None = None,
    kind: str = "object",
    options: dict[str, Any] | None = None,
    preset: Preset = None,
    seed: int = 0,
    revision: str | None = None,
    family: str | None = None,
    dtype: str = AUTO,
    device: str = "cpu",
    out: str | Path | None = None,
    layouts: Sequence[str] = (),
    force: bool = False,
    resume: bool = False,
    listeners: Sequence[Listener] = (),
    cancel: threading.Event | None = None,
) -> Artifact:
    """Erases concepts from a model and returns the artifact; the model itself is not changed.

    What the artifact's manifest warns of (a name that the model never learned, for example) is a Python warning too.

    Args:
        model: "pocket", a path, a Hub id, a loaded pipeline or a `Model`.
        concepts: what to erase.
        method: id of a registered method.
        keep: prompts that must stay as they are, and data for methods that read data.
        to: what the concepts become; the method's default if None.
        kind: kind of the concepts given as text (see `erase_plugins.ForgetItem`).
        options: options of the method.
        preset: option values by kind of model and concept, from a TOML file or a mapping of the same shape; ``options``
            win over it, it wins over the method's own presets.
        seed: seed of everything random.
        revision, family, dtype, device: how to load a model that is given by name. The dtype "auto" is float32, but on
            an accelerator bfloat16 where a LoRA is trained on a pipeline, and for language models what their
            configuration says unless whole weights are trained; trained values are float32.
        out: folder to write; None keeps the artifact in memory.
        layouts: file layouts to write; those of the family if empty.
        force: replace a folder of the same kind, if everything in it was written by this program.
        resume: go on from the checkpoint of an interrupted run with the same ``out``; a run that was asked something
            else is refused.
        listeners: called with progress events.
        cancel: set it to stop.

    Raises:
        EraseError: the request, the combination or the run failed; nothing half written stays behind.
    """
    request = build_request(
        model, method, concepts, keep=keep, to=to, kind=kind, options=options, preset=preset, seed=seed,
        revision=revision, family=family, dtype=dtype, device=device, out=out,
    )  # fmt: skip
    found = _found(model, request)
    ready = make_plan(_as_loaded(request, found), found.info, layouts)
    folder = None if out is None else Path(out)
    if folder is not None and resume:
        check_resume(work_folder(folder), ready)
    with nullcontext() if folder is None else claim(folder, force):
        target = as_target(found, dtype=ready.request.dtype, device=device, light=is_light(ready))
        made = run_and_save(
            ready, target, folder, layouts=layouts, force=force, resume=resume, listeners=listeners, cancel=cancel
        )
    if not listeners:  # who listens was told when it happened
        for text in made.manifest.warnings:
            warnings.warn(text, stacklevel=3)  # past `checked`, to the caller
    return made


def _found(model: Any, request: EraseRequest) -> FoundModel | Model:
    """The model of a call, its family detected here and nowhere after."""
    named = isinstance(model, str | Path)
    found: FoundModel | Model = find_model(str(model), request.revision, request.family) if named else as_target(model)
    return found


def _as_loaded(request: EraseRequest, found: FoundModel | Model) -> EraseRequest:
    """The request with the precision that a loaded model has, where it names none."""
    if isinstance(found, FoundModel) or request.dtype != AUTO:
        return request
    return replace(request, dtype=dtype_of(found))


def run_and_save(
    ready: EditPlan,
    target: Model,
    folder: Path | None,
    *,
    layouts: Sequence[str] = (),
    force: bool = False,
    resume: bool = False,
    listeners: Sequence[Listener] = (),
    cancel: threading.Event | None = None,
    finish: Callable[[Artifact], Artifact] | None = None,
) -> Artifact:
    """Runs a plan on a loaded target and writes the artifact; the second half of `erase`.

    Args:
        ready: the plan.
        target: the loaded model.
        folder: artifact folder; None keeps it in memory, without checkpoints. Of several processes only the main one
            writes it.
        layouts, force, resume, listeners, cancel: as for `erase`.
        finish: the last word on the artifact before it is written.
    """
    with nullcontext() if folder is None else claim(folder, force):
        work = None if folder is None else work_folder(folder)
        artifact = run_plan(
            ready, target, work=work, resume=resume, listeners=listeners, cancel=cancel, shares=_shares(ready, target),
            target_rate=_target_rate(ready, target),
        )  # fmt: skip
        artifact = artifact if finish is None else finish(artifact)
        if folder is None or work is None or not is_main():
            return artifact
        saved = artifact.save(folder, layouts, target, force)
        clear(work)
        return saved


def _shares(ready: EditPlan, target: Model) -> Any:
    """Measures attribute shares for methods with an option ``attributes``."""
    attributes = list(ready.options.get("attributes") or ())
    if not attributes:
        return None
    from erase_plugins.evaluation.shares import attribute_shares

    return attribute_shares(target, attributes, judges())


def _target_rate(ready: EditPlan, target: Model) -> Any:
    """Measures how often the concepts are seen, where the option ``stop_at`` asks for it."""
    if ready.options.get("stop_at") is None:
        return None
    from erase_plugins.evaluation.shares import target_rate

    return target_rate(target, [concept.text for concept in ready.request.concepts], judges())


def work_folder(out: Path) -> Path:
    """Where a run that writes ``out`` keeps its checkpoint until it is done."""
    return out.with_name(f".{out.name}.work")


@checked
def generate(
    model: Any,
    prompts: str | Sequence[str],
    artifacts: Sequence[Artifact | str | Path] = (),
    *,
    seeds: Sequence[int] | int = 0,
    strength: float = 1.0,
    steps: int = 20,
    guidance: float = 4.0,
    any_base: bool = False,
    guard_key: str | Path | None = None,
    **options: Any,
) -> Any:
    """Pictures (n, 3, height, width) in 0..1, drawn with the artifacts applied; the pipeline is restored.

    Args:
        model: name, path, Hub id or pipeline.
        prompts: one or several.
        artifacts: applied together.
        seeds: one for all prompts or one per prompt.
        strength: of every artifact.
        steps, guidance: sampler settings.
        any_base: allow a fine-tune of the artifact's base.
        guard_key: file with the key of a guard whose keywords are HMACs.
        options: revision, dtype, device for a model given by name.

    Raises:
        RequestError: nothing to draw, a setting that cannot be, or one that is not known.
    """
    from erase_plugins.evaluation.draw import draw
    from erase_plugins.workflow.applying import apply_all

    texts = [prompts] if isinstance(prompts, str) else list(prompts)
    if strange := sorted(set(options) - _HOW_TO_LOAD):
        raise RequestError(
            f"generate knows no {strange[0]}; for settings of the pipeline's own, call it inside of "
            "`with erase_plugins.apply(pipe, artifact):`"
        )
    if not texts or steps < 1 or not math.isfinite(guidance):
        raise RequestError(
            f"{len(texts)} prompts, {steps} steps and guidance {guidance:g} draw nothing; give one or more prompts, "
            "one or more steps and a finite guidance"
        )
    numbers = [seeds] * len(texts) if isinstance(seeds, int) else list(seeds)
    if len(numbers) != len(texts):
        raise RequestError(f"{len(texts)} prompts but {len(numbers)} seeds; give one seed or one per prompt")
    loaded = [load_artifact(item) for item in artifacts]
    subject = as_target(model, **options) if isinstance(model, str | Path) else model
    pipe = subject.host if isinstance(subject, Model) else subject
    denoiser = None if getattr(pipe, "unet", None) is not None else as_target(subject).network(DENOISER)
    handles = apply_all(subject, loaded, strength, any_base=any_base, guard_key=guard_key)
    try:
        return draw(pipe, texts, numbers, steps=steps, guidance=guidance, fast=False, denoiser=denoiser, checked=True)
    finally:
        for handle in reversed(handles):
            handle.remove()


@checked
def evaluate(
    model: Any = None,
    artifacts: Artifact | str | Path | Sequence[Artifact | str | Path] = (),
    suite: str = "quick",
    *,
    strength: float = 1.0,
    out: str | Path | None = None,
    **options: Any,
) -> EvalReport:
    """Measures artifacts with a registered suite.

    Args:
        model: name, path, Hub id or pipeline; left out for a suite that needs no subject.
        artifacts: one or several, applied together.
        suite: id of a registered suite.
        strength: of the artifacts.
        out: folder for report, contact sheet and chart; None writes nothing.
        options: of the measurement (erased, images, seed, judge ...), ``settings`` with the options of the suite, and
            revision, dtype, device.
    """
    from erase_plugins.workflow.measure import run_suite

    items = [artifacts] if isinstance(artifacts, Artifact | str | Path) else list(artifacts)
    return run_suite(model, items, suite, strength=strength, out=None if out is None else Path(out), **options)


@checked
def attack(
    model: Any,
    artifacts: Artifact | str | Path | Sequence[Artifact | str | Path],
    name: str = "weights",
    *,
    budget: str | int = "quick",
    strength: float = 1.0,
    out: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    force: bool = False,
    **options: Any,
) -> AttackReport:
    """Tries to bring back what artifacts erased, with a registered attack, and says how often it came.

    Args:
        model: name, path, Hub id or pipeline (left as it was).
        artifacts: one or several, applied together.
        name: id of a registered attack.
        budget: "quick", "standard", "long", or a number of queries.
        strength: of the artifacts.
        out: folder for report and found input; the same call after a kill goes on from there. None writes nothing.
        settings: options of the attack.
        force: replace the files of an earlier run.
        options: of the measurement (erased, judge, seed, steps, guidance, any_base, progress) and revision, dtype,
            device.

    Raises:
        EraseError: unknown attack, wrong budget or options, nothing to look for, existing files.
    """
    from erase_plugins.workflow.measure import run_named_attack

    items = [artifacts] if isinstance(artifacts, Artifact | str | Path) else list(artifacts)
    return run_named_attack(
        model, items, name, budget, strength=strength, out=None if out is None else Path(out), settings=settings,
        force=force, **options,
    )  # fmt: skip
