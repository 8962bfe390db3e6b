"""``erase-plugins space``: a small web page that draws base and erased model side by side."""

from __future__ import annotations

import importlib.util
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click

from erase_plugins.cli.alongside import call
from erase_plugins.cli.command import check_output, declare, dry_run_option, existing, force_option, quiet_client
from erase_plugins.cli.console import emit, human_bytes, say
from erase_plugins.cli.pairs import asked, draw, drawing_options
from hub_cards.cli.push import personal_option, requirement_option, show


@declare("space", example="me/no-pizza --local")
@click.argument("repo", metavar="OWNER/NAME")
@click.option("--artifact", metavar="ARTIFACT", help="Local artifact; the Space gets a copy instead of fetching it.")
@click.option("--out", metavar="DIR", help="Folder to write; NAME-space if left out.")
@click.option("--gallery", metavar="DIR", help="Show the pairs that 'card --pairs' wrote there.")
@drawing_options
@click.option("--license", metavar="ID", help="Licence id; that of the base model if left out.")
@requirement_option
@click.option("--push", is_flag=True, help="Publish it as Space OWNER/NAME in one commit.")
@click.option("--local", is_flag=True, help="Run it here at once; without --out no folder is left.")
@click.option("--private", is_flag=True, help="With --push: make a new Space private.")
@click.option("--prune", is_flag=True, help="With --push: take off pairs about other weights; replace others' files.")
@personal_option
@dry_run_option
@force_option
def command(
    repo: str, artifact: str | None, out: str | None, gallery: str | None, adult: bool | None, push: bool, local: bool,
    private: bool, prune: bool, personal: bool, dry_run: bool, force: bool, **given: Any,
) -> None:  # fmt: skip
    """Write a Gradio Space for a published artifact: prompt, seed, strength, base and erased side by side.

    Without --artifact the published OWNER/NAME is shown, with the pictures of its page. Without --requirement the Space
    holds a copy of erase-plugins.
    """
    from erase_plugins.artifacts.reference import SCHEME, check_repo
    from erase_plugins.errors import MissingExtra
    from erase_plugins.page.space import APP, space_files, write_space
    from erase_plugins.workflow.artifacts import load_artifact
    from erase_plugins.workflow.pairs import read_gallery
    from hub_cards.bundle import How
    from hub_cards.other_pushes import push_space
    from hub_cards.pulling import published_gallery
    from hub_cards.pushing import ready, unchecked

    if local and importlib.util.find_spec("gradio") is None:
        raise MissingExtra("space --local", "ui")
    quiet_client()
    name = check_repo(repo).split("/")[1]
    context = click.get_current_context()
    passing = tempfile.TemporaryDirectory(prefix="erase-plugins-space-") if local and out is None else nullcontext("")
    out = out or str(Path(context.with_resource(passing), f"{name}-space"))
    folder = check_output(out, force, kind="space", dry_run=dry_run)
    loaded = load_artifact(existing(artifact or f"{SCHEME}{repo}"))
    if push and not dry_run:
        how = How(private=private)
        ready(how.bundle(loaded, repo, (), "", repo_type="space"), how)
    wanted, blur = asked(given)
    drawn = draw(loaded, None, wanted, blur) or (read_gallery(gallery) if gallery else None)
    drawn = drawn or (published_gallery(repo) if artifact is None else None)
    files = space_files(loaded, repo, copy=artifact is not None, gallery=drawn, blur=blur, adult=adult, **given)
    options = {"private": private, "prune": prune, "personal": personal, "dry_run": dry_run, "show": show}
    done = push_space(loaded, repo, files, **options) if push else None
    size = human_bytes(sum(len(item) if isinstance(item, bytes) else item.stat().st_size for item in files.values()))
    if dry_run:
        told = "" if done is None else unchecked(done.bundle)
        say(f"would write {len(files)} files, {size}, to {folder}; nothing was changed (dry run{told})")
    else:
        write_space(files, folder, force)
        say(f"wrote {folder}: {len(files)} files, {size}")
        say("starting it; Ctrl-C ends it" if local else f"run it here: pip install gradio && python {folder}/{APP}")
    if done is not None and not dry_run:
        say(f"Space {repo} is at commit {(done.commit or '')[:12]}; {len(done.sent)} files were sent")
    emit({"schema": 1, "dry_run": dry_run, "folder": str(folder), "files": sorted(files), "repo": repo,
          "pushed": None if done is None else {**done.bundle.to_dict(), "commit": done.commit}})  # fmt: skip
    if local and not dry_run:
        context.exit(call([sys.executable, APP], folder))
