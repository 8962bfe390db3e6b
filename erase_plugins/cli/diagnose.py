"""``erase-plugins diagnose``: someone reports that the model still draws it."""

from __future__ import annotations

from pathlib import Path

import click

from erase_plugins.cli.command import (
    check_output,
    declare,
    existing,
    force_option,
    model_options,
    seed_option,
    strength_option,
)
from erase_plugins.cli.console import emit, say, table
from erase_plugins.hints import Sentence
from erase_plugins.plain_text import scrub


@declare("diagnose", example='no-pizza --model pocket --prompt "a slice of pizza"')
@click.argument("artifact")
@model_options
@click.option("--prompt", required=True, help="The prompt that disappointed.")
@seed_option("Its seed.")
@strength_option
@click.option("--clip-skip", type=click.IntRange(0, 12), default=1, show_default=True, help="Clip skip that was set.")
@click.option("--lora", "loras", multiple=True, metavar="FILE", help="Another LoRA that was active; repeatable.")
@click.option(
    "--pictures", type=click.IntRange(0, 64), default=4, show_default=True, help="Pictures per side; 0 for none."
)
@click.option(
    "--bundle", metavar="FILE.zip", help="Write a bug report: versions, manifest, numbers; no weights or paths."
)
@click.option("--images", is_flag=True, help="Put two pictures into the bundle.")
@force_option
def command(
    artifact: str, model: str, revision: str | None, dtype: str, device: str, prompt: str, seed: int, strength: float,
    clip_skip: int, loras: tuple[str, ...], pictures: int, bundle: str | None, images: bool, force: bool,
) -> None:  # fmt: skip
    """Find out why a model still draws an erased concept: ordered checks, most likely cause first."""
    from erase_plugins.workflow.models import find_model

    place = existing(artifact)
    known = find_model(model, revision)
    source, family = known.source, known.family
    for file in loras:
        existing(file, "LoRA")
    target_file = None if bundle is None else check_output(Path(bundle), force, ".zip")
    say(f"model {source.name}: family {family.id} ({family.title})")
    from erase_plugins.cli.command import load_target
    from erase_plugins.diagnose.run import diagnose

    target = load_target(known, dtype=dtype, device=device)
    found = diagnose(
        place, target, prompt, seed=seed, strength=strength, clip_skip=clip_skip, loras=loras, pictures=pictures
    )
    files: list[str] = []
    if target_file is not None:
        from erase_plugins.diagnose.bundle import write_bundle

        files = write_bundle(found, target_file, scrub, images, force)
    emit({**found.to_dict(), "bundle": None if target_file is None else {"file": str(target_file), "holds": files}})
    table(
        "",
        ("", "check", "result"),
        ((item.verdict, item.check.replace("_", " "), item.text) for item in found.findings),
    )
    cause = found.cause
    if cause is None:
        say("no fault found: with these settings the artifact does what it should")
    else:
        say(Sentence("first cause: ", cause.text))
        if cause.fix:
            say(Sentence("to fix it: ", cause.fix))
    if target_file is not None:
        say(f"wrote {target_file}: {', '.join(files)}")
