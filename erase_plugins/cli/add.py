"""``erase-plugins add``: further concepts in a closed-form artifact, exactly as if erased together."""

from __future__ import annotations

import click

from erase_plugins.cli.command import (
    check_layouts,
    check_output,
    declare,
    dry_run_option,
    force_option,
    layout_option,
    load_artifacts,
    load_target,
    preset_option,
    saved_facts,
    say_saved,
)
from erase_plugins.cli.console import emit, say
from erase_plugins.concept_text import concepts_from
from erase_plugins.errors import RequestError
from erase_plugins.types import KINDS


@declare("add", example="no-both --erase car --model pocket --out no-three")
@click.argument("artifact")
@click.option("--erase", "concepts", multiple=True, metavar="TEXT", help="What to erase as well; repeat for several.")
@click.option("--to", "anchor", metavar="TEXT", help="What the new concepts become.")
@click.option("--kind", type=click.Choice(KINDS), default="object", show_default=True, help="Kind of the new concepts.")
@click.option("--keep", multiple=True, metavar="TEXT", help="What must stay as it is; repeat for several.")
@preset_option
@click.option("--model", help="Base model; what the artifact names if left out.")
@click.option("--out", required=True, metavar="DIR", help="Artifact folder to write; the old one stays as it is.")
@layout_option
@dry_run_option
@force_option
def command(
    artifact: str, concepts: tuple[str, ...], anchor: str | None, kind: str, keep: tuple[str, ...],
    preset: str | None, model: str | None, out: str, layouts: tuple[str, ...], dry_run: bool, force: bool,
) -> None:  # fmt: skip
    """Erase further concepts in an existing closed-form artifact."""
    if not concepts:
        raise RequestError("nothing to add was named; add --erase TEXT")
    items = concepts_from(concepts, kind, anchor)
    added = [item.text for item in items]
    place = check_output(out, force, dry_run=dry_run)
    chosen = check_layouts(layouts)
    (first,) = load_artifacts([artifact])
    from erase_plugins.artifacts.solved import statistics_of
    from erase_plugins.compose import add
    from erase_plugins.engine.own_preset import load_preset
    from erase_plugins.manager import get_manager
    from erase_plugins.workflow.run import known_models

    own = None if preset is None else load_preset(preset)

    statistics_of(first.edit, first.name)
    if own is not None:
        own.check(get_manager().method(str(first.manifest.method["id"])), known_models())
    if dry_run:
        say(f"would add {', '.join(added)} to {', '.join(first.manifest.erased)}; nothing written")
        emit({"schema": 1, "dry_run": True, "erased": [*first.manifest.erased, *added]})
        return
    target = load_target(model or str(first.manifest.base.get("model") or "pocket"))
    saved = add(first, items, target, list(keep), own).save(place, chosen, target, force)
    say(f"added {', '.join(added)}: {len(saved.manifest.erased)} concepts, rank {saved.manifest.rank}")
    say_saved(saved)
    emit({"schema": 1, "artifact": saved_facts(saved)})
