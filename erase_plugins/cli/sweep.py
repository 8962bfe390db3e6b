"""``erase-plugins sweep METHOD``: one artifact per concept with one loaded model; goes on where it stopped."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import click

from erase_plugins.cli.command import (
    check_layouts,
    declare,
    dry_run_option,
    layout_option,
    model_options,
    parse_settings,
    preset_option,
    seed_option,
    until_the_end,
)
from erase_plugins.cli.console import emit, hint, human_seconds, progress, say
from erase_plugins.concept_text import concepts_from
from erase_plugins.errors import EraseError, PluginAbsent, RequestError, RunCancelled
from erase_plugins.hints import ANOTHER_OUT, in_terminal
from erase_plugins.types import KINDS


@declare("sweep", example="uce --model pocket --erase dog --erase cat --out artifacts")
@click.argument("method")
@model_options
@click.option("--erase", "concepts", multiple=True, metavar="TEXT", help="A concept; repeat for several.")
@click.option("--erase-file", type=click.Path(exists=True, dir_okay=False), help="Text file with one concept a line.")
@click.option("--to", "anchor", metavar="TEXT", help="What every concept becomes.")
@click.option("--keep", multiple=True, metavar="TEXT", help="What must stay as it is; repeat for several.")
@click.option("--kind", type=click.Choice(KINDS), default="object", show_default=True, help="Kind of the concepts.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Option of the method (see 'info METHOD').")
@preset_option
@seed_option("Seed of everything random.")
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True, help="Processes on this machine.")
@click.option("--out", required=True, metavar="DIR", help="Folder that gets one artifact folder per concept.")
@layout_option
@dry_run_option
def command(
    method: str, model: str, revision: str | None, dtype: str, device: str, concepts: tuple[str, ...],
    erase_file: str | None, anchor: str | None, keep: tuple[str, ...], kind: str, settings: tuple[str, ...],
    preset: str | None, seed: int, jobs: int, out: str, layouts: tuple[str, ...], dry_run: bool,
) -> None:  # fmt: skip
    """Erase many concepts, each into an artifact of its own.

    Finished artifacts are left alone, so the same command goes on after an interruption and retries only what failed.
    With other settings it is refused.
    """
    from erase_plugins.cli.command import load_target, quiet_libraries
    from erase_plugins.cli.run import lines_of
    from erase_plugins.engine.own_preset import load_preset
    from erase_plugins.manager import get_manager

    method = get_manager().method(method).id
    items = {item.text: item for item in concepts_from([*concepts, *lines_of(erase_file)], kind, anchor)}
    names = list(items)
    if not names:
        raise RequestError("nothing to erase was named; add --erase TEXT or --erase-file FILE")
    options = parse_settings(settings)
    own = None if preset is None else load_preset(preset)
    chosen = check_layouts(layouts)
    quiet_libraries()
    from erase_plugins.api import build_request
    from erase_plugins.artifacts.manifest import slug
    from erase_plugins.workflow.models import find_model
    from erase_plugins.workflow.run import make_plan

    folder = Path(out)
    places = {name: folder / slug(name) for name in names}
    clashes = sorted(name for name in names if sum(place == places[name] for place in places.values()) > 1)
    if clashes:
        raise RequestError(f"these concepts would share a folder: {', '.join(clashes)}; name them differently")
    found = find_model(model, revision)
    plans = {
        name: make_plan(
            build_request(
                model, method, items[name], keep=[text for text in keep if text != name], options=options, preset=own,
                seed=seed, revision=revision, dtype=dtype, device=device, out=places[name],
            ),
            found.info, chosen,
        )
        for name in names
    }  # fmt: skip
    loaded = plans[names[0]].request.dtype
    todo = [name for name in names if not _finished(places[name], plans[name], found.info.model, chosen)]
    seconds = sum(plans[name].seconds or 0.0 for name in todo)
    say(f"{len(names)} concepts: {len(names) - len(todo)} finished, {len(todo)} to do, about {human_seconds(seconds)}")
    if dry_run or not todo:
        emit({"schema": 1, "dry_run": dry_run, "finished": len(names) - len(todo), "todo": todo, "failed": {}})
        return
    from erase_plugins.artifacts.locks import locked
    from erase_plugins.artifacts.places import check_place

    for name in todo:
        check_place(places[name], True)
    until_the_end(locked(folder / "sweep"))
    waiting = {name: plans[name] for name in todo}
    if min(jobs, len(todo)) > 1:
        from erase_plugins.cli.sweep_processes import in_processes

        failed = in_processes(min(jobs, len(todo)), (model, revision, loaded, device), waiting, places, chosen)
    else:
        failed = _work(load_target(found, dtype=loaded, device=device), waiting, places, chosen)
    say(f"{len(names) - len(failed)} ok, {len(failed)} failed" + ("; the same command retries these" if failed else ""))
    emit({"schema": 1, "dry_run": False, "finished": len(names) - len(failed), "todo": [], "failed": failed})
    if failed:
        raise EraseError(f"{len(failed)} of {len(names)} concepts failed, first: {next(iter(failed.values()))}")


def _finished(place: Path, plan: Any, model: str, layouts: tuple[str, ...]) -> bool:
    """Whether an artifact is there already.

    Raises:
        RequestError: it is, and was made otherwise than it is asked for now.
    """
    from erase_plugins.workflow.artifacts import load_artifact

    if not place.exists():
        return False
    try:
        found = load_artifact(place).manifest
    except PluginAbsent:  # whole, and nothing to be replaced
        raise
    except EraseError:
        hint(f"{place.name} is damaged and will be made again")
        return False
    if told := _otherwise(found, plan, model, layouts):
        raise RequestError(f"'{place.name}' is finished, and was asked something else: {told}; choose ", ANOTHER_OUT)
    return True


def _otherwise(found: Any, plan: Any, model: str, layouts: tuple[str, ...]) -> str:
    """How an artifact was made otherwise than a plan says; "" if it was not. Options that are newer are left out."""
    from erase_plugins.engine.checkpoint import differences
    from erase_plugins.engine.runner import public_options
    from erase_plugins.manager import get_manager

    request = plan.request
    options = public_options(get_manager().method(request.method).Options, plan.options)
    options = json.loads(json.dumps(options, default=str))
    common = options.keys() & found.options.keys() if found.method.get("id") == request.method else set()
    there = [layout for layout in layouts if layout in {item.layout for item in found.files}]
    before, now = (
        {
            "method": method, "model": base, "seed": seed, "keep": sorted(keep), "layout": sorted(files),
            "erase": [(item.text, item.kind, item.anchor) for item in items],
            **{name: values[name] for name in common},
        }
        for method, base, seed, keep, files, items, values in (
            (found.method.get("id"), found.base.get("model"), found.seed, found.preserve, there, found.concepts,
             found.options),
            (request.method, model, request.seed, request.preserve, layouts, request.forget, options),
        )
    )  # fmt: skip
    return differences(before, now)


def _work(target: Any, plans: dict[str, Any], places: dict[str, Path], layouts: tuple[str, ...]) -> dict[str, str]:
    """Runs every plan; returns concept -> reason for those that failed."""
    from erase_plugins.api import run_and_save
    from erase_plugins.engine.context import cancel_on_interrupt

    failed: dict[str, str] = {}
    cancel = threading.Event()
    started = time.perf_counter()
    with cancel_on_interrupt(cancel), progress() as bar:
        for done, (name, plan) in enumerate(plans.items(), 1):
            try:
                run_and_save(plan, target, places[name], layouts=layouts, force=True, resume=True, cancel=cancel)
            except RunCancelled as error:  # which advises an option that `run` has and this command needs not
                raise RunCancelled(f"stopped with {len(plans) - done + 1} to do; the same command goes on") from error
            except EraseError as error:
                failed[name] = f"{name}: {in_terminal(error)}"
            left = (time.perf_counter() - started) / done * (len(plans) - done)
            bar.update(f"{name} ({human_seconds(left)} left)", done, len(plans))
    return failed
