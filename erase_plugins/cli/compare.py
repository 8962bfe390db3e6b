"""``erase-plugins compare``: all methods on the same concepts and seeds; one table, a Pareto plot, a contact sheet."""

from __future__ import annotations

from pathlib import Path

import click

from erase_plugins.cli.command import (
    all_written,
    declare,
    dry_run_option,
    model_options,
    quiet_libraries,
    quote,
    seed_option,
)
from erase_plugins.cli.console import emit, hint, human_seconds, progress, say, table
from erase_plugins.comparison.shapes import SHAPES
from erase_plugins.concept_text import phrases_from, written
from erase_plugins.errors import EraseError, RequestError
from erase_plugins.families.forget_set import PROMPT, read_set
from erase_plugins.hints import in_terminal
from erase_plugins.types import KINDS


@declare("compare", example="--methods uce,esd --erase pizza --erase owl --out compared")
@model_options
@click.option("--methods", multiple=True, metavar="M", default=("all",), show_default=True,
              help="'all', or ids with commas; options behind colons: uce:aliases=true.")  # fmt: skip
@click.option("--erase", "concepts", multiple=True, metavar="TEXT", help="A concept; repeat for several.")
@click.option("--erase-file", type=click.Path(exists=True, dir_okay=False), help="Text file with one concept a line.")
@click.option("--style", "styles", multiple=True, metavar="TEXT", help="A style to erase; repeat for several.")
@click.option("--kind", type=click.Choice(KINDS), default="object", show_default=True, help="Kind of --erase.")
@click.option("--keep", multiple=True, metavar="TEXT", help="What must stay as it is; repeat for several.")
@click.option("--forget", "sets", multiple=True, metavar="FILE",
              help="Forget set of worst-case, whose unlearners are compared; repeat for several.")  # fmt: skip
@click.option("--retain", metavar="DATA", help="Data that the forget sets were made of; those beside the model.")
@click.option("--seeds", type=click.IntRange(1, 1000), default=1, show_default=True,
              help="With --forget: so many seeds, from --seed on.")  # fmt: skip
@click.option("--preset", "presets", multiple=True, metavar="FILE",
              help="TOML file with option values of one method, which it names; repeat for several.")  # fmt: skip
@click.option("--images", type=click.IntRange(1), default=32, show_default=True, help="Pictures per prompt set.")
@seed_option("Seed of everything random.")
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True, help="Processes on this machine.")
@click.option("--ray", metavar="ADDRESS", help="Ray cluster to run on; 'local' starts one here.")
@click.option("--reuse", type=click.Path(exists=True, dir_okay=False), help="comparison.json whose equal cells stand.")
@click.option("--export", "exports", multiple=True, type=click.Choice(list(SHAPES)),
              help="Write the table of a benchmark's shape too, as CSV and JSON; repeat for several.")  # fmt: skip
@click.option("--out", required=True, metavar="DIR", help="Folder for cells, table and figures.")
@dry_run_option
def command(
    model: str, revision: str | None, dtype: str, device: str, methods: tuple[str, ...], concepts: tuple[str, ...],
    erase_file: str | None, styles: tuple[str, ...], kind: str, keep: tuple[str, ...], sets: tuple[str, ...],
    retain: str | None, seeds: int, presets: tuple[str, ...], images: int, seed: int, jobs: int, ray: str | None,
    reuse: str | None, exports: tuple[str, ...], out: str, dry_run: bool,
) -> None:  # fmt: skip
    """Run methods on the same concepts, prompts and seeds, and measure them.

    Finished cells (a method on a concept) are kept, so the same command goes on after an interruption and retries
    only what failed. A failed cell is reported and does not end the run. With --reuse a new method or concept costs
    only its own cells: equal ones (request, options, judge, base) come from an earlier comparison.
    """
    from erase_plugins.cli.run import lines_of

    wanted = dict.fromkeys(phrases_from([*concepts, *lines_of(erase_file)]), kind) | dict.fromkeys(
        phrases_from(styles), "style"
    )
    chosen = {file: read_set(file) for file in sets}
    labelled = [file for file, found in chosen.items() if found.wise != PROMPT]
    if labelled and (wanted or len(labelled) < len(sets)):
        raise RequestError("forget sets of a classifier say what is forgotten; leave --erase and other sets out")
    if labelled and exports:
        raise RequestError("--export is about pictures that a model draws; leave it out with sets of a classifier")
    if labelled:
        range_of = list(range(seed, seed + seeds))
        _compare_sets(model, revision, dtype, device, methods, labelled, range_of, retain, Path(out), dry_run)
        return
    for found in chosen.values():
        wanted |= dict.fromkeys(found.names, str(found.forget_set.get("kind", kind)))
    if not wanted:
        raise RequestError("nothing to erase was named; add --erase TEXT, --style TEXT or --erase-file FILE")
    quiet_libraries()
    from erase_plugins.comparison import run
    from erase_plugins.workflow.models import find_model

    compared = run.parse_methods(methods)
    own = run.read_presets(presets, [name for name, _ in compared])
    loaded = find_model(model, revision).precision(dtype, device)
    cells = run.make_cells(
        wanted, compared, presets=own, keep=keep, model=model, revision=revision, dtype=loaded, device=device,
        images=images, seed=seed,
    )  # fmt: skip
    plans, reasons = run.plan_cells(cells)
    folder = Path(out) / run.CELLS
    there = {cell.key for cell in cells if run.finished(folder / cell.key)} | set(run.reusable(cells, plans, reuse))
    todo = [cell for cell in cells if cell.key in plans and cell.key not in there]
    seconds = sum(plans[cell.key].seconds or 0.0 for cell in todo) / jobs
    say(f"{len(cells)} cells: {len(plans) - len(todo)} finished, {len(reasons)} skipped, {len(todo)} to do, "
        f"about {human_seconds(seconds)} of erasing, {len(todo) * 4 * images} pictures to judge")  # fmt: skip
    if dry_run:
        named = {f"{cell.label}, {cell.concept}": reasons[cell.key] for cell in cells if cell.key in reasons}
        for name, reason in named.items():
            say(f"  skipped: {name}: {in_terminal(reason)}")
        emit({"schema": 1, "dry_run": True, "cells": len(cells), "todo": [cell.key for cell in todo],
              "seconds": seconds, "skipped": named})  # fmt: skip
        return
    with progress() as bar:
        summary = run.compare(
            cells, Path(out), jobs=jobs, ray=ray, reuse=reuse,
            command=_again(methods, wanted, keep, presets, model, images, seed),
            progress=lambda done, total: bar.update("cells", done, total), prepare=quiet_libraries,
            exports=tuple(dict.fromkeys(exports)),
        )  # fmt: skip
    _tell(summary, Path(out))


def _compare_sets(
    model: str, revision: str | None, dtype: str, device: str, methods: tuple[str, ...], sets: list[str],
    seeds: list[int], retain: str | None, out: Path, dry_run: bool,
) -> None:  # fmt: skip
    """Unlearners of a classifier on forget sets."""
    from erase_plugins.comparison.run import parse_methods
    from erase_plugins.comparison.unlearners import METRICS, Plan, compare_sets
    from erase_plugins.manager import get_manager
    from erase_plugins.needs import lacks
    from erase_plugins.workflow.models import find_model

    quiet_libraries()
    info = find_model(model, revision).info
    asked = parse_methods(methods)
    registered = {entry.item.id: entry.item for entry in get_manager().methods()}
    fit = [item for item in asked if "samples" in registered[item[0]].kinds and not lacks(registered[item[0]], info)]
    if not fit:
        raise RequestError(f"none of these methods forgets pictures of {info.model}; see 'erase-plugins list methods'")
    names = {Path(file).stem: [file] for file in sets}
    if len(names) < len(sets):
        raise RequestError("two forget sets have the same file name; rename one, it is their name in the table")
    count = len(fit) * len(sets) * len(seeds)
    say(f"{count} cells: {len(fit)} methods, {len(sets)} forget sets, {len(seeds)} seeds")
    if dry_run:
        emit({"schema": 1, "dry_run": True, "cells": count, "methods": [name for name, _ in fit], "sets": list(names)})
        return
    words = [part for text in methods for part in ("--methods", text)]
    words += [part for file in sets for part in ("--forget", Path(file).name)]
    again = quote("erase-plugins", "compare", "--model", info.model, *words, "--seeds", len(seeds))
    with progress() as bar:
        summary = compare_sets(
            Plan(model, fit, names, seeds, retain), out, command=again, revision=revision, dtype=dtype, device=device,
            progress=lambda done, total: bar.update("cells", done, total),
        )  # fmt: skip
    columns = [*METRICS, "gap"]
    for name, rows in summary["sets"].items():
        table(
            name, ("method", *columns),
            [[label, *(f"{100 * row[key][0]:.1f} %" if key in row else "-" for key in columns)]
             for label, row in rows.items()], columns,
        )  # fmt: skip
    for name, reason in summary["failed"].items():
        hint(f"failed: {name}: {reason}")
    say(f"wrote {', '.join(summary['files'].values())} in {out}")
    emit({**{key: value for key, value in summary.items() if key != "cells"}, "out": str(out)})
    if not any(summary["sets"].values()):
        raise EraseError(f"every cell failed, first: {next(iter(summary['failed'].values()))}")


def _tell(summary: dict, out: Path) -> None:
    """What people and programs get to see."""
    from erase_plugins.comparison.figures import PARETO

    rows = []
    for kind, label, row in (
        (kind, label, row) for kind, part in summary["kinds"].items() for label, row in part["rows"].items()
    ):
        if row["concepts"]:
            shares = [f"{100 * row['rates'][name][0]:.1f} %" if name in row["rates"] else "-"
                      for name in ("target_rate", "synonym_rate", "kept_rate")]  # fmt: skip
            rows.append([label, kind, *shares, f"{row['kept_change_points'][0]:+.1f}", human_seconds(row["seconds"])])
    numbers = ("target", "synonyms", "kept", "change")
    table("mean over concepts", ("method", "kind", *numbers, "time"), rows, numbers)
    for title in ("skipped", "failed"):
        for name, reason in summary[title].items():
            hint(f"{title}: {name}: {reason}")
    for name, reason in summary["unwritten"].items():
        hint(f"{name} was not written: {reason}")
    if PARETO not in {*summary["files"].values(), *summary["unwritten"]}:
        hint("no Pareto plot: pip install 'erase-plugins[plots]'")
    say(f"wrote {', '.join(summary['files'].values())} in {out}")
    emit({**{key: value for key, value in summary.items() if key != "cells"}, "out": str(out)})
    if summary["failed"] and not rows:
        raise EraseError(f"every cell failed, first: {next(iter(summary['failed'].values()))}")
    all_written(summary["files"]["data"], summary["unwritten"])


def _again(
    methods: tuple[str, ...], wanted: dict, keep: tuple[str, ...], presets: tuple[str, ...], model: str, images: int,
    seed: int,
) -> str:  # fmt: skip
    """The command without the folder, for the table."""
    words: list[object] = ["erase-plugins", "compare", "--model", model]
    for name in methods:
        words += ["--methods", name]
    for text, kind in wanted.items():
        words += ["--style" if kind == "style" else "--erase", written(text)]
    for text in keep:
        words += ["--keep", text]
    for file in presets:
        words += ["--preset", Path(file).name]
    return quote(*words, "--images", images, "--seed", seed)
