"""``erase-plugins card``: the model card of an artifact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from erase_plugins.cli.command import check_output, declare, existing, force_option
from erase_plugins.cli.console import emit, say
from erase_plugins.errors import RequestError
from hub_cards.cli.push import asked, draw, drawing_options, reader_options


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
    from erase_plugins.evaluation.sensitive import to_blur
    from erase_plugins.workflow.artifacts import load_artifact
    from hub_cards.errors import check_repo
    from hub_cards.model_card import card

    wanted, plain = asked(given), given.pop("unblurred")
    if (wanted["pairs"] or wanted["prompts"]) and out is None:
        raise RequestError("pictures need a place; add --out FILE.md")
    place = None if out is None else check_output(out, force, ".md")
    loaded = load_artifact(existing(artifact))
    where = None if repo is None else check_repo(repo)
    gallery = draw(loaded, report, wanted)
    if gallery is not None and not plain and to_blur(loaded.manifest.concepts):
        gallery = gallery.blur()
    text = card(loaded, report, repo=where, gallery=gallery, **given)
    if place is None:
        say(text.rstrip("\n"))
    else:
        write(place, text, gallery, force)
        say(f"wrote {place}" + (f" and {len(gallery.pictures)} pictures beside it" if gallery else ""))
    emit({"schema": 1, "card": text, "file": out, "pictures": [] if gallery is None else sorted(gallery.pictures)})


def write(place: Path, text: str, gallery: Any, force: bool) -> None:
    """The card, and its pictures beside it."""
    from erase_plugins.artifacts.atomic import atomic_file
    from erase_plugins.artifacts.places import FILE, check_place

    files = {place.parent / name: data for name, data in ({} if gallery is None else gallery.files()).items()}
    for name in files:
        check_place(name, force, FILE)
    for name, data in {**files, place: text.encode()}.items():
        name.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(name, force) as work:
            work.write_bytes(data)
