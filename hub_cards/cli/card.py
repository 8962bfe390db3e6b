"""``erase-plugins card``: the model card of an artifact."""

from __future__ import annotations

from typing import Any

import click

from erase_plugins.cli.command import check_output, declare, existing, force_option
from erase_plugins.cli.console import emit, say
from erase_plugins.cli.pairs import asked, draw, drawing_options, write
from erase_plugins.errors import RequestError
from hub_cards.cli.push import reader_options


@declare("card", example="no-pizza --report report --out page/README.md")
@click.argument("artifact")
@click.option("--report", metavar="PATH", help="Report of its evaluation (report.json or its folder).")
@click.option("--repo", metavar="OWNER/NAME", help="Where it will be published.")
@click.option("--license", metavar="ID", help="Licence id; that of the base model if left out.")
@drawing_options
@reader_options
@click.option("--out", metavar="FILE.md", help="File to write; shown if left out. Pictures go into images/ beside it.")
@force_option
def command(artifact: str, report: str | None, repo: str | None, out: str | None, force: bool, **given: Any) -> None:
    """Write the model card of an artifact. Without a report it says "not measured"."""
    from erase_plugins.artifacts.reference import check_repo
    from erase_plugins.workflow.artifacts import load_artifact
    from hub_cards.model_card import card

    wanted, blur = asked(given)
    if (wanted["pairs"] or wanted["prompts"]) and out is None:
        raise RequestError("pictures need a place; add --out FILE.md")
    place = None if out is None else check_output(out, force, ".md")
    loaded = load_artifact(existing(artifact))
    where = None if repo is None else check_repo(repo)
    gallery = draw(loaded, report, wanted, blur)
    text = card(loaded, report, repo=where, gallery=gallery, **given)
    if place is None:
        say(text.rstrip("\n"))
    else:
        write(place, text, gallery, force)
        say(f"wrote {place}" + (f" and {len(gallery.pictures)} pictures beside it" if gallery else ""))
    emit({"schema": 1, "card": text, "file": out, "pictures": [] if gallery is None else sorted(gallery.pictures)})
