"""``erase-plugins pull``: fetches a published artifact and verifies it."""

from __future__ import annotations

import click

from erase_plugins.cli.command import declare, force_option, saved_facts
from erase_plugins.cli.console import emit, human_bytes, say


@declare("pull")
@click.argument("repo", metavar="OWNER/NAME[@REVISION]")
@click.option("--into", metavar="DIR", help="Copy it into this new folder; otherwise it stays in the Hub's cache.")
@click.option("--model", metavar="MODEL", help="Also check that it fits this model (loads its weights).")
@click.option("--offline", is_flag=True, help="Use the cache only.")
@force_option
def command(repo: str, into: str | None, model: str | None, offline: bool, force: bool) -> None:
    """Fetch a published artifact; hashes, names, shapes and values are verified before it is used."""
    from hub_cards.cli.push import quiet_client
    from hub_cards.pulling import pull, split

    quiet_client()
    name, revision = split(repo)
    artifact = pull(repo, into, model=model, force=force, offline=offline)
    say(f"{name}: {', '.join(artifact.manifest.erased) or 'a LoRA without manifest'}, verified")
    say(f"  {human_bytes(artifact.bytes)} in {artifact.path}")
    say(f"use it: erase-plugins generate hub:{repo.removeprefix('hub:')} --prompt ... --out picture.png")
    emit({"schema": 1, "repo": name, "revision": revision, "artifact": saved_facts(artifact)})
