"""``erase-plugins evaluate``: runs a suite and shows its numbers with their intervals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from erase_plugins.cli.command import (
    all_written,
    declare,
    dry_run_option,
    existing,
    force_option,
    guard_key_option,
    hint_strength,
    load_artifacts,
    model_options,
    parse_settings,
    seed_option,
    strength_option,
    until_the_end,
)
from erase_plugins.cli.console import emit, hint, human_seconds, progress, say, share, table
from erase_plugins.plain_text import an

#: a loss of kept concepts, in shares, from which an edit is called poor
_DAMAGE = 0.10
#: upper end of the interval of what is left from which pictures are too few to call an edit good
_UNSURE = 0.5
NOT_MEASURED = "not measured"


@declare("evaluate", example="no-pizza --model pocket --out report")
@click.argument("artifacts", nargs=-1, metavar="[ARTIFACT ...]")
@model_options
@click.option("--suite", default="quick", show_default=True, help="What to measure (see 'list suites').")
@click.option("--judge", metavar="J", help="Judge to use, such as clip:FOLDER; chosen by the model if left out.")
@click.option("--erased", multiple=True, metavar="TEXT", help="What to look for; what the artifacts name if left out.")
@strength_option
@click.option("--images", type=click.IntRange(1, 100_000), default=32, show_default=True, help="Pictures per set.")
@seed_option("Seed of prompts, noise and resampling.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Option of the suite (see 'info SUITE').")
@click.option("--any-base", is_flag=True, help="Allow a fine-tune of the artifact's base model.")
@guard_key_option
@click.option(
    "--out", required=True, metavar="DIR", help="Folder for report.json, figures and what else the suite attaches."
)
@dry_run_option
@force_option
def command(
    artifacts: tuple[str, ...], model: str, revision: str | None, dtype: str, device: str, suite: str,
    judge: str | None, erased: tuple[str, ...], strength: float, images: int, seed: int, settings: tuple[str, ...],
    any_base: bool, guard_key: str | None, out: str, dry_run: bool, force: bool,
) -> None:  # fmt: skip
    """Measure artifacts: is the concept gone, is the rest still there."""
    from erase_plugins.artifacts.locks import claim_files
    from erase_plugins.errors import RequestError
    from erase_plugins.evaluation.attachments import output_names
    from erase_plugins.evaluation.context import REPORT, needs_judge, needs_subject, suite_options
    from erase_plugins.extras import require
    from erase_plugins.manager import get_manager
    from erase_plugins.needs import packages_of
    from erase_plugins.workflow.fitting import check_fits
    from erase_plugins.workflow.models import find_model

    runner = get_manager().evaluator(suite, "suite")
    options = suite_options(runner, parse_settings(settings))
    require(packages_of(runner), f"suite {suite}")
    if not needs_subject(runner):
        _alone(runner, options, Path(out), seed, device, dry_run, force)
        return
    if judge is not None:
        from erase_plugins.workflow.measure import find_judge

        find_judge(judge)
        if not needs_judge(runner):
            raise RequestError(f"suite {suite} asks no judge; leave out --judge")
    found = find_model(model, revision)
    check_fits(runner, found.info)
    source, family = found.source, found.family
    folder = Path(out)
    if not dry_run:
        until_the_end(claim_files(folder, output_names(runner, REPORT), force))
    for path in artifacts:
        existing(path)
    loaded = load_artifacts(artifacts)
    hint_strength(loaded, strength)
    say(f"model {source.name}: family {family.id} ({family.title})")
    if dry_run:
        names = list(erased) or [text for item in loaded for text in item.manifest.erased]
        say(f"would measure {', '.join(names) or 'nothing'} with suite {suite}, {images} pictures per set")
        emit({"schema": 1, "dry_run": True, "suite": suite, "erased": names, "images": images, "family": family.id})
        return
    from erase_plugins.cli.command import quiet_libraries
    from erase_plugins.workflow.measure import run_suite

    quiet_libraries()
    with progress() as bar:
        report = run_suite(
            found, loaded, suite, strength=strength, out=folder, force=force, erased=erased, judge=judge, images=images,
            seed=seed, any_base=any_base, guard_key=guard_key, progress=bar.update, settings=options, dtype=dtype,
            device=device,
        )  # fmt: skip
    quality, advice = verdict(report, loaded, model)
    plain = len(loaded) == 1 and strength == 1.0 and not any_base
    if plain and quality != NOT_MEASURED and tells_quality(report, loaded[0]):
        mark(loaded[0], quality)
    emit({**report.to_dict(), "quality": quality, "advice": advice, "folder": str(folder)})
    show(report)
    judged = f"quality: {quality}; " if advice or quality != NOT_MEASURED else ""
    say(f"{judged}{human_seconds(report.seconds)}; judge {report.judge or 'none'}")
    for text in (*report.warnings, *advice):
        say(f"  {text}")
    for name, file in report.files.items():
        say(f"{name}: {folder / file}")
    all_written(report.files["report"], report.unwritten)


#: options of this command that say something about a model, by the name of their parameter
_ABOUT_A_MODEL = ("artifacts", "model", "revision", "dtype", "judge", "erased", "strength", "images", "any_base",
                  "guard_key")  # fmt: skip


def _alone(suite: Any, options: dict[str, Any], out: Path, seed: int, device: str, dry_run: bool, force: bool) -> None:
    """Runs a suite that needs no subject: no model, judge or torch is loaded for it."""
    from click.core import ParameterSource

    from erase_plugins.errors import RequestError
    from erase_plugins.evaluation.context import run_alone

    ctx = click.get_current_context()
    given = [name for name in _ABOUT_A_MODEL if ctx.get_parameter_source(name) is not ParameterSource.DEFAULT]
    if given:
        names = ", ".join("ARTIFACT" if name == "artifacts" else f"--{name.replace('_', '-')}" for name in given)
        raise RequestError(f"suite {suite.id} measures no model; leave out {names}")
    if dry_run:
        say(f"would run suite {suite.id} with {options or 'no options'}; it needs no model")
        emit({"schema": 1, "dry_run": True, "suite": suite.id, "options": options})
        return
    with progress() as bar:
        report = run_alone(suite, options, out=out, force=force, seed=seed, device=device, progress=bar.update)
    emit({**report.to_dict(), "folder": str(out)})
    show(report)
    say(human_seconds(report.seconds))
    for text in report.warnings:
        say(f"  {text}")
    for name, file in report.files.items():
        say(f"{name}: {out / file}")
    all_written(report.files["report"], report.unwritten)


def tells_quality(report: Any, artifact: Any) -> bool:
    """Whether a report is about what an artifact erases; with ``--erased`` it may have looked for something else."""
    seen = any((row.metric, row.subject) == ("target_rate", "edited") for row in report.rows)
    return seen and set(report.erased) == set(artifact.manifest.erased)


def mark(artifact: Any, quality: str) -> None:
    """Notes the measured quality in the manifest of an artifact folder.

    Files without one are left alone, and so is what lies in the cache of the Hub's client, where it is a link. A folder
    that cannot be written is told of: what was measured is there all the same.
    """
    from dataclasses import replace

    from erase_plugins.artifacts.atomic import atomic_file
    from erase_plugins.artifacts.manifest import FILENAME

    if artifact.path is None or not (file := artifact.path / FILENAME).is_file() or file.is_symlink():
        return
    try:
        with atomic_file(file) as work:
            work.write_text(replace(artifact.manifest, quality=quality).to_json(), encoding="utf-8")
    except OSError as error:
        hint(f"'{artifact.path.name}' cannot be written ({error.strerror}); its manifest does not say: {quality}")


def show(report: Any) -> None:
    """Table of rates, one line per metric, one column per subject."""
    subjects = list(dict.fromkeys(row.subject for row in report.rows))
    metrics = list(dict.fromkeys(row.metric for row in report.rows))
    cells = {(row.metric, row.subject): row for row in report.rows}
    rows = [
        [_light(metric, cells), metric, *(_rate(cells.get((metric, name))) for name in subjects)] for metric in metrics
    ]
    title = f"{', '.join(report.erased)} at strength {report.strength:g}" if report.erased else report.suite
    notes = {row.metric: row.note for row in report.rows if row.note}
    if notes:
        rows = [[*line, notes.get(metric, "")] for metric, line in zip(metrics, rows, strict=True)]
    table(title, ("", "metric", *subjects, *(["note"] if notes else [])), rows)


def _rate(row: Any) -> str:
    if row is None:
        return "-"
    if not row.metric.endswith(("_rate", "_share")):  # a score in units of its own
        spread = "" if row.low == row.high else f" [{row.low:.4g}..{row.high:.4g}]"
        return f"{row.value:.4g}{spread} n={row.n}"
    return share(row)


def _light(metric: str, cells: dict[tuple[str, str], Any]) -> str:
    """ok, weak or bad, from base and edited value of one metric."""
    base, edited = cells.get((metric, "base")), cells.get((metric, "edited"))
    if base is None or edited is None or not metric.endswith(("_rate", "_share")):
        return ""
    if metric in ("target_rate", "synonym_rate"):
        if not base.value:
            return ""  # what the base does not show cannot be seen to go
        left = edited.value / base.value
        return "ok" if left <= 0.1 else "weak" if left <= 0.6 else "bad"
    loss = base.value - edited.value
    return "ok" if loss <= 0.04 else "weak" if loss <= _DAMAGE else "bad"


def verdict(report: Any, artifacts: list[Any], model: str) -> tuple[str, list[str]]:
    """good, fair or poor, and what to do about it; "not measured" where the base has nothing to compare with.

    Returns:
        quality, and lines of advice with commands.
    """
    cells = {(row.metric, row.subject): row for row in report.rows}
    lights = {metric: _light(metric, cells) for metric in {row.metric for row in report.rows}}
    bad = sorted(metric for metric, light in lights.items() if light == "bad")
    if not any(lights.values()) and ("target_rate", "base") not in cells:
        return NOT_MEASURED, []  # numbers that nothing is held against, such as those of a suite of somebody's own
    if not bad and (row := cells.get(("target_rate", "base"))) is not None and not row.value:
        return NOT_MEASURED, ["the base model shows nothing of it either: this says nothing about the artifact"]
    if not bad:
        good = lights.get("target_rate") == "ok"
        if good and (left := cells[("target_rate", "edited")]).high > _UNSURE:
            return "fair", [
                f"{left.n} pictures are too few to call it good: up to {left.high:.0%} may be left (95 %); give more "
                "with --images"
            ]
        return ("good" if good else "fair"), []
    if not report.judge:  # what a suite of its own measures, it explains in its warnings
        return "poor", []
    from erase_plugins.cli.command import quote

    words = [part for text in report.erased for part in ("--erase", text)]
    kinds = {concept.kind for item in artifacts for concept in item.manifest.concepts}
    words += [part for kind in kinds if len(kinds) == 1 and kind != "object" for part in ("--kind", kind)]
    lines = []
    if set(bad) - {"target_rate", "synonym_rate"}:
        lines.append(f"other concepts are damaged ({', '.join(bad)}); try one of:")
        retry = ("erase-plugins", "run", "uce", "--model", model, *words, "--set")
        lines.append(quote(*retry, "keep_scale=1", "--keep", "NEIGHBOUR", "--out", "retry-keep"))
        lines.append(quote(*retry, "erase_scale=0.5", "--out", "retry-softer"))
    if "target_rate" in bad and artifacts:
        lines.append("the concept is still there; find out why with:")
        path = artifacts[0].path
        place = path if path is not None else artifacts[0].name
        lines.append(quote("erase-plugins", "diagnose", place, "--model", model, "--prompt", an(report.erased[0])))
    elif "synonym_rate" in bad:
        lines.append("paraphrases still work; erase them too:")
        lines.append(
            quote("erase-plugins", "run", "uce", "--model", model, *words, "--set", "aliases=true", "--out", "retry")
        )
    return "poor", lines
