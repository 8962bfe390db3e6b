"""``erase-plugins run METHOD``: detect, plan, check, erase, write, say what comes next."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from erase_plugins.cli.command import (
    check_layouts,
    check_output,
    declare,
    dry_run_option,
    force_option,
    layout_option,
    model_options,
    parse_settings,
    preset_option,
    quote,
    saved_facts,
    say_saved,
    seed_option,
)
from erase_plugins.cli.console import emit, hint, human_bytes, human_seconds, progress, say
from erase_plugins.concept_text import concepts_from
from erase_plugins.errors import ArtifactError, RequestError
from erase_plugins.hints import in_terminal
from erase_plugins.plain_text import an
from erase_plugins.types import DataRef, ForgetItem


@declare("run", example="uce --model pocket --erase pizza --keep hamburger --out no-pizza")
@click.argument("method")
@model_options
@click.option("--erase", "concepts", multiple=True, metavar="TEXT", help="What to erase; repeat for several.")
@click.option("--erase-file", type=click.Path(exists=True, dir_okay=False), help="Text file with one concept a line.")
@click.option("--to", "anchor", metavar="TEXT", help="What the concepts become; the method chooses if left out.")
@click.option("--keep", multiple=True, metavar="TEXT", help="What must stay as it is; repeat for several.")
@click.option("--forget", "forget", metavar="DATA",
              help="Data to forget, or of the only --erase: a folder, a .jsonl file, datasets:NAME, or a forget set.",
)  # fmt: skip
@click.option("--retain", "retains", multiple=True, metavar="DATA", help="Data to retain, as for --forget; repeat.")
@click.option(
    "--kind", metavar="K", default="object", show_default=True,
    help="Kind of the concepts: object, style, person, explicit, class, samples, fact, dataset (see 'info METHOD').",
)  # fmt: skip
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Option of the method (see 'info METHOD').")
@preset_option
@click.option("--family", metavar="F", help="Insist on this model family instead of detecting it.")
@seed_option("Seed of everything random.")
@click.option("--out", required=True, metavar="DIR", help="Artifact folder to write.")
@layout_option
@dry_run_option
@click.option("--resume", is_flag=True, help="Go on from the checkpoint of an interrupted run.")
@force_option
@click.option("--check/--no-check", "check", default=None,
              help="Refuse concepts that the model does not know, as far as words and a judge can tell.")  # fmt: skip
def command(
    method: str, model: str, revision: str | None, dtype: str, device: str, concepts: tuple[str, ...],
    erase_file: str | None, anchor: str | None, keep: tuple[str, ...], forget: str | None,
    retains: tuple[str, ...], kind: str, settings: tuple[str, ...],
    preset: str | None, family: str | None, seed: int, out: str, layouts: tuple[str, ...], dry_run: bool, resume: bool,
    force: bool, check: bool | None,
) -> None:  # fmt: skip
    """Erase concepts from a model and write an artifact folder."""
    from erase_plugins.engine.own_preset import load_preset
    from erase_plugins.manager import get_manager
    from erase_plugins.workflow.models import find_model

    method = get_manager().method(method).id
    options = parse_settings(settings)
    chosen = check_layouts(layouts)
    names = [*concepts, *lines_of(erase_file)]
    if not names and forget is None:
        raise RequestError("nothing to erase was named; add --erase TEXT, for example --erase pizza")
    items = with_data(concepts_from(names, kind, anchor), forget) if names else data_items(str(forget), kind, anchor)
    own = None if preset is None else load_preset(preset)
    found = find_model(model, revision, family)
    detected = found.family
    say(f"model {found.source.name}: family {detected.id} ({detected.title})")
    folder = check_output(out, force, dry_run=dry_run)
    from erase_plugins.cli.command import quiet_libraries

    quiet_libraries()
    from erase_plugins.api import build_request
    from erase_plugins.workflow.run import make_plan

    request = build_request(
        model, method, items, keep=[*keep, *map(DataRef, retains)], options=options, preset=own, seed=seed,
        revision=revision, family=family, dtype=dtype, device=device, out=folder,
    )  # fmt: skip
    plan = make_plan(request, found.info, chosen)
    _say_plan(plan, detected)
    if dry_run:
        warnings = _in_the_way(folder, force)
        for text in warnings:
            say(f"  warning: {text}")
        say("dry run: nothing was loaded or written")
        emit({"schema": 1, "dry_run": True, "family": detected.id, "plan": plan.to_dict(), "warnings": warnings})
        return
    _execute(plan, found, folder, chosen, resume, force, check)


def lines_of(file: str | None) -> list[str]:
    """Concepts in a text file, one a line; empty lines and lines that start with # are left out."""
    if file is None:
        return []
    try:
        text = Path(file).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise RequestError(
            f"--erase-file {Path(file).name} is not UTF-8 text; save it as UTF-8, one concept a line"
        ) from error
    found = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if not found:
        raise RequestError(f"--erase-file {Path(file).name} names nothing; write one concept a line")
    return found


def data_items(place: str, kind: str, anchor: str | None = None) -> list[ForgetItem]:
    """What ``--forget`` alone means: a forget set says what it holds, other data are of a kind."""
    from erase_plugins.families.forget_set import is_set, items_of

    data = DataRef(place)
    return items_of(data) if is_set(data) else [ForgetItem("", kind, anchor=anchor, data=data)]


def with_data(items: list[ForgetItem], place: str | None) -> list[ForgetItem]:
    """What is to be forgotten, with its data.

    Raises:
        RequestError: data of which nobody knows what it shows.
    """
    if place is None:
        return items
    if place.lower().endswith(".json"):
        raise RequestError(
            f"{Path(place).name} is a forget set, which says itself what is forgotten; leave --erase out"
        )
    if len(items) != 1:
        raise RequestError(f"--forget is data of one --erase, and there are {len(items)}; erase one after the other")
    return [replace(items[0], data=DataRef(place))]


def _in_the_way(folder: Path, force: bool) -> list[str]:
    """What would keep the run from writing, in the words of the run itself."""
    from erase_plugins.artifacts.places import check_place

    try:
        check_place(folder, force)
    except ArtifactError as error:
        return [in_terminal(error)]
    return []


def _say_plan(plan: Any, family: Any) -> None:
    groups = sorted({name.partition(".")[0] for name in plan.modules})
    say(f"plan: {plan.request.method} on {len(plan.modules)} modules of {' and '.join(groups) or 'the model'}, "
        f"{plan.steps} steps")  # fmt: skip
    costs = [
        "" if plan.seconds is None else f"about {human_seconds(plan.seconds)}",
        "" if plan.memory_bytes is None else f"{human_bytes(plan.memory_bytes)} of memory besides the model",
        "" if plan.file_bytes is None else f"files up to {human_bytes(plan.file_bytes)} each",
    ]
    say(f"  {', '.join(filter(None, costs)) or 'the method does not estimate what it takes'}")
    for note in plan.notes:
        say(f"  {note}")
    for text in plan.warnings:
        say(f"  warning: {text}")


def _execute(
    plan: Any, found: Any, folder: Path, layouts: tuple[str, ...], resume: bool, force: bool, check: bool | None
) -> None:
    from erase_plugins.api import run_and_save, work_folder
    from erase_plugins.cli.command import load_target
    from erase_plugins.cli.reaction import find_judge
    from erase_plugins.engine.checkpoint import check_resume
    from erase_plugins.engine.context import cancel_on_interrupt
    from erase_plugins.families.capabilities import CLASSIFIER, DENOISER
    from erase_plugins.workflow.run import is_light

    request = plan.request
    work = work_folder(folder)
    if resume:
        check_resume(work, plan)
        if not work.exists():
            hint("no interrupted run is here; starting anew")
    elif work.exists():
        hint("an interrupted run left a checkpoint here; starting anew (use --resume to go on from it)")
    drawn = check or (check is None and find_judge(found.info) is not None)
    target = load_target(found, dtype=request.dtype, device=request.device, light=not drawn and is_light(plan))
    started = time.perf_counter()
    checked = None if check is False else _checked(target, request, bool(check))
    cancel = threading.Event()
    with cancel_on_interrupt(cancel), progress() as bar:
        saved = run_and_save(
            plan, target, folder, layouts=layouts, force=force, resume=resume, listeners=(bar.event,), cancel=cancel
        )
    seconds = time.perf_counter() - started
    patched = _verify(target, saved, plan.options.get("key"))
    manifest = saved.manifest
    names = ", ".join(manifest.erased[:5]) + (" ..." if len(manifest.erased) > 5 else "")
    say(f"erased {names} in {human_seconds(seconds)}: "
        f"patched {patched} of {patched} modules, rank {manifest.rank}")  # fmt: skip
    say_saved(saved)
    commands = next_commands(
        request.model, folder, _prompt(request.forget[0].kind, manifest.erased[0]),
        DENOISER in target.info.capabilities,
        "classifier" if CLASSIFIER in target.info.capabilities else None,
    )  # fmt: skip
    say("next:")
    for line in commands:
        say(f"  {line}")
    emit({
        "schema": 1, "artifact": saved_facts(saved), "patched": patched, "seconds": round(seconds, 3),
        "plan": plan.to_dict(),
        "check": checked.to_dict() if checked is not None else None, "next": commands,
    })  # fmt: skip


def _checked(target: Any, request: Any, insist: bool) -> Any:
    """What a judge saw of the concepts on the base, None where there is no judge.

    Raises:
        RunRefused: the model does not know a concept, as far as that can be known: erasing it would only change others.
    """
    from erase_plugins.cli.reaction import base_reaction
    from erase_plugins.engine.wording import check_length
    from erase_plugins.errors import RunRefused
    from erase_plugins.workflow.run import check_known

    way_out = "nothing was written; name another concept, or pass --no-check if you mean it"
    check_length(request, target)
    check_known(request, target, way_out)
    checked = base_reaction(target, request, insist=insist)
    if checked is not None:
        for line in checked.lines():
            hint(line)
        if checked.nothing:
            raise RunRefused(f"nothing to erase: {'; '.join(checked.lines())}; {way_out}")
    return checked


def _verify(target: Any, artifact: Any, key: Any = None) -> int:
    """Number of modules that the written edit patches in the loaded model; all of them or an error.

    Args:
        target, artifact: what was edited, and what was written.
        key: file with the key of a guard whose words are HMACs.
    """
    from erase_plugins.workflow.applying import apply

    with apply(target, artifact, guard_key=key or None) as applied:
        return applied.patched


def _prompt(kind: str, name: str) -> str:
    """A prompt that names what was erased."""
    return an(name) if kind == "object" else f"a picture {'in the style ' if kind == 'style' else ''}of {name}"


def next_commands(
    model: str, folder: Path, prompt: str, draws: bool = True, suite: str | None = None
) -> list[str]:  # fmt: skip
    """What a user types after a run; ``suite`` measures models that draw nothing."""
    given = ("--model", model)
    if not draws:
        measure = quote(
            "erase-plugins", "evaluate", folder, *given, "--suite", suite or "", "--out", f"{folder.name}-report"
        )
        return [*([measure] if suite else []), quote("erase-plugins", "inspect", folder)]
    return [
        quote("erase-plugins", "generate", folder, *given, "--prompt", prompt, "--out", "picture.png"),
        quote("erase-plugins", "evaluate", folder, *given, "--suite", "quick", "--out", f"{folder.name}-report"),
        quote("erase-plugins", "inspect", folder),
    ]  # fmt: skip
