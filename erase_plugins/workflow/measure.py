"""Opens what is measured, and runs a registered suite on it: loads model and artifacts, picks the judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from erase_plugins.artifacts.artifact import Artifact
from erase_plugins.artifacts.locks import claim_files
from erase_plugins.artifacts.marks import read_key
from erase_plugins.errors import EraseError, RequestError, Unsupported
from erase_plugins.evaluation.attachments import output_names
from erase_plugins.evaluation.attack import run_attack
from erase_plugins.evaluation.context import (
    REPORT,
    Progress,
    does_without_judge,
    needs_judge,
    needs_subject,
    run_alone,
    run_in_context,
)
from erase_plugins.evaluation.guarded import check_guards
from erase_plugins.evaluation.run import IMAGE, Subject, modality, modality_of
from erase_plugins.extras import require
from erase_plugins.families.model import Model
from erase_plugins.hints import Hint
from erase_plugins.manager import get_manager
from erase_plugins.needs import packages_of
from erase_plugins.types import AttackReport, EvalReport
from erase_plugins.workflow.artifacts import load_artifact
from erase_plugins.workflow.fitting import check_fits, suites_for
from erase_plugins.workflow.models import as_target


def find_judge(wanted: str) -> tuple[Any, str]:
    """The registered judge of "NAME" or "NAME:ARGUMENT", and the argument.

    Raises:
        UnknownName: no judge of that name.
        RequestError: it needs an argument, or takes none.
    """
    name, sign, argument = wanted.partition(":")
    chosen = get_manager().evaluator(name, "judge")
    takes = getattr(chosen, "argument", "")
    if bool(takes) != bool(argument):
        raise RequestError(
            f"judge {name} " + (f"needs {takes}: {name}:{takes}" if takes else f"takes nothing behind '{sign}'")
        )
    return chosen, argument


def pick_judge(target: Model, wanted: str | None, erased: Sequence[str] = ()) -> Any:
    """The named judge, or the first registered one that accepts the model.

    Args:
        target: the model.
        wanted: "NAME", or "NAME:ARGUMENT" for a judge that is opened with something of the user's.
        erased: what such a judge will be asked about.

    Raises:
        UnknownName: no judge of that name.
        RequestError: its argument is missing or not usable.
        Unsupported: none accepts the model.
    """
    manager, made = get_manager(), modality_of(target.info)
    if wanted is not None:
        chosen, argument = find_judge(wanted)
        chosen = chosen.opened(argument, erased) if argument else chosen
        if modality(chosen) != made:
            raise Unsupported(
                f"judge '{wanted}' looks at {modality(chosen)}, and this model makes {made}{'s' * (made == IMAGE)}"
            )
        return chosen
    judges = [entry.item for entry in manager.evaluators("judge")]
    for judge in judges:
        if modality(judge) == made and judge.accepts(target.info):
            return judge
    names = ", ".join(judge.id for judge in judges)
    does = "draws" if made == IMAGE else f"makes ({made})"
    fitting = ", ".join(suites_for(target.info))
    hint = "; a CLIP model of yours can judge it: judge clip:FOLDER" if made == IMAGE else (
        f"; suites that fit: {fitting}" if fitting else "")  # fmt: skip
    raise Unsupported(
        f"no registered judge knows what {target.info.model} {does} (registered: {names or 'none'}){hint}"
    )


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
    guard_key: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    **load: Any,
) -> EvalReport:
    """Runs a registered suite.

    Args:
        model: name, path, Hub id, `FoundModel` or pipeline (left as it was); None for a suite that needs no subject.
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
        guard_key: file with the key of a guard whose keywords are HMACs.
        settings: options of the suite.
        load: revision, dtype, device for a model given by name.

    Raises:
        MissingExtra: a package that the suite needs is not installed.
        EraseError: unknown suite or judge, nothing to look for, unsupported model, existing files.
    """
    runner = get_manager().evaluator(suite, "suite")
    require(packages_of(runner), f"suite {suite}")
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
            seed=seed, steps=steps, guidance=guidance, any_base=any_base, guard_key=guard_key, **load,
        )  # fmt: skip
        report = run_in_context(
            runner, subject, settings or {}, seed=seed, device=str(subject.target.device), progress=progress, out=out,
            force=force,
        )  # fmt: skip
    return report


def run_named_attack(
    model: Any,
    artifacts: Sequence[Artifact | str | Path],
    name: str,
    budget: str | int = "quick",
    *,
    settings: Mapping[str, Any] | None = None,
    out: Path | None = None,
    force: bool = False,
    progress: Progress | None = None,
    **measured: Any,
) -> AttackReport:
    """Runs a registered attack; see `erase_plugins.attack`.

    Args:
        model, artifacts, name, budget, settings, out, force: as there.
        progress: called with (stage, done, total).
        measured: what `open_subject` takes.

    Raises:
        EraseError: what `evaluation.attack.run_attack` and `open_subject` raise; `MissingExtra`.
    """
    runner = get_manager().evaluator(name, "attack")
    require(packages_of(runner), f"attack {name}")
    return run_attack(
        runner, lambda: open_subject(model, artifacts, runner, **measured), budget, settings=settings, out=out,
        force=force, progress=progress,
    )  # fmt: skip


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
    guard_key: str | Path | None = None,
    **load: Any,
) -> Subject:
    """Loads artifacts and model, and picks the judge, for a suite or an attack (``runner``).

    Raises:
        RequestError: nothing to look for, or no picture.
        CorruptArtifact: no usable key in ``guard_key``.
        EraseError: what `check_guards`, loading and `pick_judge` raise.
    """
    loaded = [load_artifact(item) for item in artifacts]
    check_guards(runner, loaded)
    key = b"" if guard_key is None else read_key(Path(guard_key))
    names = list(dict.fromkeys([*erased, *(text for item in loaded if not erased for text in item.manifest.erased)]))
    asks = needs_judge(runner)
    unjudged: EraseError | None = None
    if asks and not names:
        unjudged = RequestError(
            "nothing to look for: give an artifact that names its concepts, ", Hint("erased", "TEXT", before="or")
        )
        if not does_without_judge(runner):
            raise unjudged
    if images < 1:
        raise RequestError(f"images={images}; at least one picture per set is needed")
    target = as_target(model, **load)
    check_fits(runner, target.info)
    target.check_complete()
    chosen = None
    try:
        chosen = pick_judge(target, judge, names) if asks and unjudged is None else None
    except Unsupported as error:
        if judge is not None or not does_without_judge(runner):
            raise
        unjudged = error
    return Subject(
        target.host, target, target.info.model, loaded, chosen, names, strength, images, seed, steps, guidance,
        any_base, progress, guard_key=key, unjudged=unjudged,
    )  # fmt: skip
