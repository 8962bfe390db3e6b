"""``erase-plugins card``: the model card of an artifact."""

from __future__ import annotations

import click

from erase_plugins.cli.command import check_output, declare, existing, force_option
from erase_plugins.cli.console import emit, say


@declare("card")
@click.argument("artifact")
@click.option("--report", metavar="PATH", help="Report of its evaluation (report.json or its folder).")
@click.option("--repo", metavar="OWNER/NAME", help="Where it will be published.")
@click.option("--license", "licence", metavar="ID", help="Licence id; that of the base model if left out.")
@click.option("--out", metavar="FILE.md", help="File to write; shown if left out.")
@force_option
def command(
    artifact: str, report: str | None, repo: str | None, licence: str | None, out: str | None, force: bool
) -> None:
    """Write the model card of an artifact. Without a report it says "not measured"."""
    from erase_plugins.artifacts.atomic import atomic_file
    from hub_cards.errors import check_repo
    from hub_cards.model_card import card

    place = None if out is None else check_output(out, force, ".md")
    text = card(
        existing(artifact), report, repo=None if repo is None else check_repo(repo), license=licence
    )  # fmt: skip
    if place is None:
        say(text.rstrip("\n"))
    else:
        with atomic_file(place, force) as work:
            work.write_text(text, encoding="utf-8")
        say(f"wrote {place}")
    emit({"schema": 1, "card": text, "file": out})
