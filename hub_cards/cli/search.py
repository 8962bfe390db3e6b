"""``erase-plugins search``: published artifacts and collections, as a table or as JSON."""

from __future__ import annotations

import click

from erase_plugins.cli.command import declare
from erase_plugins.cli.console import emit, say, table, use_it
from erase_plugins.plain_text import some


@declare("search", example="pizza")
@click.argument("query", nargs=-1)
@click.option("--base-model", metavar="MODEL", help="Made for this base: Hub id, or a family such as sdxl.")
@click.option("--concept", metavar="TEXT", help="Erases this concept (or one with this in its name).")
@click.option("--tag", "tags", multiple=True, metavar="TAG", help="Has this tag on the Hub; repeat for several.")
@click.option("--limit", type=int, default=20, show_default=True, help="Most results.")
def command(
    query: tuple[str, ...], base_model: str | None, concept: str | None, tags: tuple[str, ...], limit: int
) -> None:
    """Find published artifacts and collections: by words in name or concepts, by tag, base model and concept."""
    from hub_cards.searching import search

    found = search(" ".join(query), base_model=base_model, concept=concept, tags=tags, limit=limit)
    rows = [
        (item.id, some(item.concepts, 3) or "-", item.base or item.family or "-", item.method or "-", item.downloads,
         "collection" if item.collection else "full model" if item.full else "") for item in found
    ]  # fmt: skip
    if rows:
        table("", ("repository", "erased", "base", "method", "downloads", ""), rows, numbers=("downloads",))
        one = found[0]
        part = f"hub:{one.id}{'#NAME' if one.collection else ''}"
        say(use_it(model=one.id) if one.full else use_it(part, model=one.base))
    else:
        say("nothing fits; try fewer words, or look without --base-model")
    emit({"schema": 1, "found": [item.to_dict() for item in found]})
