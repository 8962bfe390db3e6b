"""``erase-plugins pull``: fetches a published artifact and verifies it."""

from __future__ import annotations

import click

from erase_plugins.cli.command import check_output, declare, force_option, quiet_client, saved_facts, stacked
from erase_plugins.cli.console import emit, human_bytes, say, use_it

#: which files of an artifact come, and from where
fetch_options = stacked(
    click.option("--layout", "layouts", multiple=True, metavar="L", help="Also fetch the file for a program: kohya, "
                 "diffusers ..."),
    click.option("--all-files", is_flag=True, help="Fetch every file of an artifact."),
    click.option("--offline", is_flag=True, help="Use the cache only."),
)  # fmt: skip


@declare("pull", example="me/no-pizza --into fetched")
@click.argument("repo", metavar="OWNER/NAME[@REVISION]")
@click.option("--into", metavar="DIR", help="Copy it into this new folder; otherwise it stays in the Hub's cache.")
@click.option("--model", metavar="MODEL", help="Also check that it fits this model (loads its weights).")
@fetch_options
@force_option
def command(
    repo: str, into: str | None, model: str | None, layouts: tuple[str, ...], all_files: bool, offline: bool,
    force: bool,
) -> None:  # fmt: skip
    """Fetch a published artifact: its manifest and the file that is needed to apply, convert and merge it.

    Hashes, names, shapes and values are verified before it is used.
    """
    from erase_plugins.artifacts.reference import split
    from hub_cards.pulling import pull

    quiet_client()
    name, revision = split(repo)
    if into is not None:
        check_output(into, force)
    artifact = pull(repo, into, model=model, layouts=("all",) if all_files else layouts, force=force, offline=offline)
    say(f"{name}: {', '.join(artifact.manifest.erased) or 'a LoRA without manifest'}, verified")
    place, listed, use = artifact.path, artifact.manifest.files, into or f"hub:{repo.removeprefix('hub:')}"
    files = [item for item in listed if place.is_file() or (place / item.name).is_file()]
    say(f"  {human_bytes(sum(item.bytes for item in files))} in {place}")
    if len(files) < len(listed):
        say("  files for other programs were left out; --all-files or --layout fetches them")
    say(use_it(use, model=model or artifact.manifest.base.get("model") or ""))
    emit({"schema": 1, "repo": name, "revision": revision, "artifact": saved_facts(artifact),
          "fetched": [item.name for item in files]})  # fmt: skip
