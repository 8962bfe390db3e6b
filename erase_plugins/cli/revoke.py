"""``erase-plugins revoke``: brings a concept back by solving again without it. Needs no model."""

from __future__ import annotations

from difflib import get_close_matches

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
from erase_plugins.cli.console import emit, say
from erase_plugins.errors import RequestError
from erase_plugins.plain_text import some


@declare("revoke", example="no-both --erase pizza --out no-dog")
@click.argument("artifact")
@click.option("--erase", "concepts", multiple=True, metavar="TEXT", help="Erased concept to bring back; repeatable.")
@click.option("--forget", is_flag=True, help="As if never erased; by default the concept is kept from now on.")
@click.option("--model", help="Base model, to write LoRA files; the embedded one is found by itself.")
@click.option("--out", required=True, metavar="DIR", help="Artifact folder to write; the old one stays as it is.")
@layout_option
@dry_run_option
@force_option
def command(
    artifact: str, concepts: tuple[str, ...], forget: bool, model: str | None, out: str, layouts: tuple[str, ...],
    dry_run: bool, force: bool,
) -> None:  # fmt: skip
    """Bring a concept back in an existing closed-form artifact."""
    if not concepts:
        raise RequestError("nothing to revoke was named; add --erase TEXT")
    place = check_output(out, force, dry_run=dry_run)
    chosen = check_layouts(layouts)
    (first,) = load_artifacts([artifact])
    known = first.manifest.erased
    for text in concepts:
        if text not in known:
            close = get_close_matches(text, known, n=1)
            meant = f"; did you mean '{close[0]}'? It" if close else "; it"
            raise RequestError(f"'{text}' is not erased by {first.name}{meant} erases: {some(known, 12) or 'nothing'}")
    from erase_plugins.compose import revoke

    revoked = revoke(first, list(concepts), forget=forget)
    say(f"revoked {', '.join(concepts)}: {len(revoked.manifest.erased)} of {len(known)} concepts remain erased")
    if dry_run:
        say("dry run: nothing written")
        emit({"schema": 1, "dry_run": True, "erased": list(revoked.manifest.erased)})
        return
    target = base_for(first, model, {})
    saved = revoked.save(place, chosen, target, force)
    say_saved(saved)
    emit({"schema": 1, "artifact": saved_facts(saved)})
