"""``erase-plugins push``: shows repository, visibility and files, then publishes them in one commit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from erase_plugins.cli.command import declare, existing, quiet_client
from erase_plugins.cli.console import state
from erase_plugins.errors import RequestError
from erase_plugins.plain_text import scrub
from hub_cards.cli.pushed import asked, draw, drawing_options, push_options, reader_options, say_pushed, show


@declare("push", example="no-pizza me/no-pizza --report report --pairs 3")
@click.argument("artifact")
@click.argument("repo", metavar="OWNER/NAME")
@click.option(
    "--report", metavar="PATH", help="Report of its evaluation, or the folder with attack-*.json; sent along."
)
@click.option(
    "--publish-attacks", is_flag=True, help="Publish what attacks found: whoever has it can bring the concept back."
)
@click.option("--merged", metavar="MODEL", help="Publish this model ('pocket' or a diffusers folder) with it fused in.")
@click.option("--strength", type=float, default=1.0, show_default=True, help="Strength of the fused edit.")
@click.option("--pictures/--no-pictures", default=True, help="Publish pictures of report and pairs.")
@click.option("--gallery", metavar="DIR", help="Publish the pairs that 'card --pairs' wrote there.")
@drawing_options
@reader_options
@push_options
def command(artifact: str, repo: str, report: str | None, merged: str | None, strength: float, **given: Any) -> None:
    """Publish an artifact folder with its card; what is there stays. Log in with `hf auth login` or HF_TOKEN."""
    from erase_plugins.records.release import is_release
    from erase_plugins.workflow.artifacts import load_artifact
    from erase_plugins.workflow.pairs import INDEX
    from hub_cards.bundle import REPORT, How, artifact_files
    from hub_cards.checkpoint import push_merged
    from hub_cards.errors import check_repo
    from hub_cards.heads import push_head
    from hub_cards.pushing import push, ready

    quiet_client()
    place, wanted, blur = existing(artifact), asked(given), False if given.pop("unblurred") else None
    page = {name: given.pop(name) for name in ("pictures", "gallery", "adult", "publish_attacks", "space")}
    if is_release(place):
        use = f"check it: hf download {repo} --local-dir head && erase-plugins verify-certificate head"
        say_pushed(push_head(place, repo, **given, show=show), repo, use)
        return
    loaded = load_artifact(place)
    given |= {"license": asked_licence(loaded.manifest.base, given["license"]), "show": show}
    if merged is not None:
        if report or page["gallery"] or wanted["pairs"]:
            raise RequestError("--merged publishes a model, not an artifact; leave --report and pictures out")
        full = push_merged(loaded, merged, repo, strength=strength, **given)
        say_pushed(full, repo, f"use it: erase-plugins generate --model {repo} --prompt ... --out picture.png")
        return
    if page["pictures"] and (wanted["pairs"] or wanted["prompts"]):
        how = How(**given)
        if not how.dry_run:
            bundle = how.bundle(loaded, check_repo(repo), artifact_files(loaded), "")
            ready(bundle, parent=how.parent, prune=how.prune, renewed=(INDEX, *([REPORT] if report else [])))
        page["gallery"] = draw(loaded, report, wanted) or page["gallery"]
    done = push(loaded, repo, report=report, blur=blur, **page, **given)
    say_pushed(done, repo, f"use it: erase-plugins generate hub:{repo} --prompt ... --out picture.png")


def asked_licence(base: Mapping[str, Any], given: str | None) -> str | None:
    """The given licence id; where nobody knows that of the base and somebody is at the terminal, what they type."""
    import sys

    from hub_cards.licences import licence_of

    if licence_of(base, given) is not None or state().json or not sys.stdin.isatty():
        return given
    name = base.get("model") or "the base model"
    return str(
        click.prompt(f"The licence of {scrub(str(name))} is not known here. Licence id as the Hub names it")
    ).strip()
