"""``erase-plugins collection push`` and ``pull``: a library of artifacts on the Hub, used in part."""

from __future__ import annotations

from typing import Any

import click

from erase_plugins.artifacts.reference import SCHEME
from erase_plugins.cli.collection import facts
from erase_plugins.cli.command import check_output, declare, force_option, quiet_client, saved_facts, say_saved
from erase_plugins.cli.console import emit, say
from erase_plugins.errors import RequestError
from hub_cards.cli.pull import fetch_options
from hub_cards.cli.push import push_options, requirement_option, say_pushed, show


@declare("push", example="library me/library")
@click.argument("folder", metavar="DIR")
@click.argument("repo", metavar="OWNER/NAME")
@requirement_option
@push_options
def push(folder: str, repo: str, **options: Any) -> None:
    """Publish a collection with its card; only what differs is sent, and nothing leaves without --prune."""
    from hub_cards.other_pushes import push_collection

    quiet_client()
    done = push_collection(folder, repo, **options, show=show)
    say_pushed(done, repo, f"use some of it: erase-plugins collection pull {repo} NAME NAME --into mine")


@declare("pull", example="me/library pizza dog --merge --into mine")
@click.argument("repo", metavar="OWNER/NAME[@REVISION]")
@click.argument("names", nargs=-1, metavar="[NAME ...]")
@click.option("--names-file", type=click.Path(exists=True, dir_okay=False), help="Text file with one name a line.")
@click.option("--into", metavar="DIR", help="Collection folder to make or to add to; with --merge an artifact folder.")
@click.option("--merge", is_flag=True, help="Make one artifact of them.")
@click.option("--model", help="Base model, to write LoRA files of the merged artifact.")
@fetch_options
@force_option
def pull(
    repo: str, names: tuple[str, ...], names_file: str | None, into: str | None, merge: bool, model: str | None,
    layouts: tuple[str, ...], all_files: bool, offline: bool, force: bool,
) -> None:  # fmt: skip
    """Fetch some artifacts of a published collection, by name or by erased concept; the rest is not downloaded."""
    from erase_plugins.artifacts.reference import parse
    from erase_plugins.cli.run import lines_of
    from hub_cards.pulling import pull_collection

    quiet_client()
    wanted = list(dict.fromkeys([*names, *lines_of(names_file), *parse(repo).names]))
    if not wanted:
        raise RequestError(f"name artifacts of it; 'erase-plugins collection list {SCHEME}{repo}' shows what is there")
    if merge:
        _merge(repo, wanted, into, model, offline, force)
        return
    layouts = ("all",) if all_files else layouts
    pulled = pull_collection(repo, wanted, into, layouts=layouts, offline=offline, force=force)
    found = pulled.find(wanted)
    say(f"{len(found)} artifacts, verified, in {pulled.path}")
    emit({"schema": 1, "folder": str(pulled.path), **facts(pulled, found)})


def _merge(repo: str, names: list[str], into: str | None, model: str | None, offline: bool, force: bool) -> None:
    from erase_plugins.cli.command import base_for
    from hub_cards.pulling import merged

    if into is None:
        raise RequestError("--merge needs --into DIR, the artifact folder to write")
    place = check_output(into, force)
    artifact = merged(repo, names, offline=offline)
    saved = artifact.save(place, target=base_for(artifact, model, {}), force=force)
    say(f"{len(names)} artifacts as one: {', '.join(saved.manifest.erased[:8])}")
    say_saved(saved)
    emit({"schema": 1, "artifact": saved_facts(saved)})
