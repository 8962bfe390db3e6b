"""``erase-plugins merge``: one artifact from several, solved jointly where their statistics allow it."""

from __future__ import annotations

import click

from erase_plugins.cli.command import (
    base_for,
    check_layouts,
    check_output,
    declare,
    dry_run_option,
    force_option,
    layout_option,
    load_artifacts,
    saved_facts,
    say_saved,
)
from erase_plugins.cli.console import emit, hint, say


@declare("merge", example="no-pizza no-dog --out no-both")
@click.argument("artifacts", nargs=-1, required=True, metavar="A B ...")
@click.option("--mode", type=click.Choice(("auto", "joint", "sum")), default="auto", show_default=True,
              help="joint: solve all concepts together; sum: add the changes; auto: joint where possible.")  # fmt: skip
@click.option("--weight", "weights", type=float, multiple=True, help="Weight of each artifact in order (mode sum).")
@click.option("--model", help="Base model, to write LoRA files; the embedded one is found by itself.")
@click.option("--out", required=True, metavar="DIR", help="Artifact folder to write.")
@layout_option
@dry_run_option
@force_option
def command(
    artifacts: tuple[str, ...], mode: str, weights: tuple[float, ...], model: str | None, out: str,
    layouts: tuple[str, ...], dry_run: bool, force: bool,
) -> None:  # fmt: skip
    """Make one artifact from several that were made for the same base."""
    place = check_output(out, force, dry_run=dry_run)
    chosen = check_layouts(layouts)
    loaded = load_artifacts(artifacts)
    from erase_plugins.compose import merge

    target = None if dry_run else base_for(loaded[0], model, {})
    merged = merge(loaded, list(weights) or None, mode, target)
    names = ", ".join(merged.manifest.erased[:8])
    how = (
        merged.manifest.notes[-1]
        if merged.manifest.notes and "summed" in merged.manifest.notes[-1]
        else "solved jointly"
    )
    if "not solved jointly" in how:
        hint(f"warning: {how}")
    for text in merged.manifest.warnings:
        hint(f"warning: {text}")
    say(
        f"{len(loaded)} artifacts, {len(merged.manifest.erased)} concepts ({names}): {how}, rank {merged.manifest.rank}"
    )
    if dry_run:
        say("dry run: nothing written")
        emit({"schema": 1, "dry_run": True, "erased": list(merged.manifest.erased), "how": how})
        return
    saved = merged.save(place, chosen, target, force)
    say_saved(saved)
    emit({"schema": 1, "artifact": saved_facts(saved), "how": how})
