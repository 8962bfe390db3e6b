"""``erase-plugins attack``: tries to bring an erased concept back, and says how often it came."""

from __future__ import annotations

from pathlib import Path

import click

from erase_plugins.cli.command import (
    all_written,
    declare,
    dry_run_option,
    force_option,
    guard_key_option,
    load_artifacts,
    model_options,
    parse_settings,
    seed_option,
    strength_option,
    until_the_end,
)
from erase_plugins.cli.console import emit, human_seconds, progress, say, share, table


@declare("attack", example="ring-a-bell pocket no-pizza")
@click.argument("words", nargs=-1, required=True, metavar="[ATTACK MODEL] ARTIFACT ...")
@model_options
@click.option("--attack", "name", default="weights", show_default=True, help="How to attack (see 'list attacks').")
@click.option("--budget", default="quick", show_default=True, metavar="B", help="quick, standard, long, or a number.")
@click.option("--judge", metavar="J", help="Judge to use, such as clip:FOLDER; chosen by the model if left out.")
@click.option("--erased", multiple=True, metavar="TEXT", help="What to look for; what the artifacts name if left out.")
@strength_option
@seed_option("Seed of prompts, noise and resampling.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Option of the attack (see 'info ATTACK').")
@click.option("--any-base", is_flag=True, help="Allow a fine-tune of the artifact's base model.")
@guard_key_option
@click.option("--out", default="attacked", show_default=True, metavar="DIR",
              help="Folder for attack-NAME.json and what was found.")  # fmt: skip
@dry_run_option
@force_option
def command(
    words: tuple[str, ...], model: str, revision: str | None, dtype: str, device: str, name: str, budget: str,
    judge: str | None, erased: tuple[str, ...], strength: float, seed: int, settings: tuple[str, ...],
    any_base: bool, guard_key: str | None, out: str, dry_run: bool, force: bool,
) -> None:  # fmt: skip
    """Try to bring an erased concept back, within a budget. A killed run goes on when it is called again.

    'attack ring-a-bell pocket no-owl' is short for 'attack no-owl --attack ring-a-bell --model pocket'.
    """
    from erase_plugins.artifacts.locks import claim_files
    from erase_plugins.errors import RequestError
    from erase_plugins.evaluation.attachments import output_names
    from erase_plugins.evaluation.attack import run_attack
    from erase_plugins.evaluation.budget import find_budget
    from erase_plugins.evaluation.context import needs_judge, suite_options
    from erase_plugins.evaluation.guarded import check_guards
    from erase_plugins.evaluation.saved import record_name
    from erase_plugins.extras import require
    from erase_plugins.manager import get_manager
    from erase_plugins.needs import packages_of
    from erase_plugins.workflow.fitting import check_fits
    from erase_plugins.workflow.models import find_model

    artifacts = words
    if _is_attack(words[0]):
        if len(words) < 3:
            raise RequestError(f"attack {words[0]} needs a model and an artifact: attack {words[0]} pocket ARTIFACT")
        _refuse_twice("attack", "model")
        name, model, *rest = words
        artifacts = tuple(rest)
    elif len(words) > 1 and not _is_place(words[0]):
        get_manager().evaluator(words[0], "attack")  # raises with the names that there are
    runner = get_manager().evaluator(name, "attack")
    options = suite_options(runner, parse_settings(settings), "attack")
    size, queries = find_budget(runner, budget, options)
    require(packages_of(runner), f"attack {name}")
    if judge is not None:
        from erase_plugins.workflow.measure import find_judge

        find_judge(judge)
        if not needs_judge(runner):
            raise RequestError(f"attack {name} asks no judge; leave out --judge")
    found = find_model(model, revision)
    source, family = found.source, found.family
    folder = Path(out)
    if not dry_run:
        until_the_end(claim_files(folder, output_names(runner, record_name(runner.id)), force))
    loaded = load_artifacts(artifacts)
    check_fits(runner, found.info)
    check_guards(runner, loaded)
    names = list(erased) or [text for item in loaded for text in item.manifest.erased]
    say(f"model {source.name}: family {family.id} ({family.title})")
    if dry_run:
        say(f"would attack {', '.join(names) or 'nothing'} with {name}, budget {size}: at most {queries} pictures")
        plan = {"attack": name, "budget": size, "queries": queries, "erased": names, "family": family.id}
        emit({"schema": 1, "dry_run": True, **plan, "options": options})
        return
    from erase_plugins.cli.command import quiet_libraries
    from erase_plugins.evaluation.attack_summary import against, excess_line
    from erase_plugins.workflow.measure import open_subject

    quiet_libraries()
    with progress() as bar:
        report = run_attack(
            runner,
            lambda: open_subject(
                found, loaded, runner, strength=strength, erased=erased, judge=judge, seed=seed, any_base=any_base,
                guard_key=guard_key, dtype=dtype, device=device,
            ),
            budget, settings=options, out=folder, force=force, progress=bar.update,
        )  # fmt: skip
    emit({**report.to_dict(), "excess": report.excess, "folder": str(folder)})
    metrics = list(dict.fromkeys(row.metric for row in report.rows))
    cells = {(row.subject, row.metric): share(row) for row in report.rows}
    rows = [[subject, *(cells.get((subject, metric), "-") for metric in metrics)]
            for subject in dict.fromkeys(row.subject for row in report.rows)]  # fmt: skip
    if rows:
        table(f"{', '.join(report.erased)} under attack {name}", (name, *metrics), rows)
    say(f"came back: {share(report.success)} ({report.success.subject}); {against(report)}: {share(report.control)}")
    say(excess_line(report))
    spent = f"{report.queries} pictures, {report.passes} passes, {human_seconds(report.seconds)}"
    say(f"{spent}; judge {report.judge or 'none'}")
    for text in report.warnings:
        say(f"  {text}")
    for key, file in report.files.items():
        say(f"{key}: {folder / file}")
    all_written(report.files["report"], report.unwritten)


def _is_attack(word: str) -> bool:
    """Whether a word names an attack, and no artifact on disk; the folder of its plugin may well be called like it."""
    from erase_plugins.manager import get_manager

    if word not in [entry.item.id for entry in get_manager().evaluators("attack")]:
        return False
    return not Path(word).exists() or (Path(word).is_dir() and not any(Path(word).glob("*.safetensors")))


def _is_place(word: str) -> bool:
    """Whether a word is meant as a path or reference, or names something on disk."""
    return bool({"/", "\\", ":", "."} & set(word)) or Path(word).exists()


def _refuse_twice(*options: str) -> None:
    """Refuses options that the leading words say already."""
    from click.core import ParameterSource

    from erase_plugins.errors import RequestError

    for option in options:
        source = click.get_current_context().get_parameter_source("name" if option == "attack" else option)
        if source is not ParameterSource.DEFAULT:
            raise RequestError(f"the {option} is named twice, in front and with --{option}; leave one out")
