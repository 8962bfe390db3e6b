"""``erase-plugins push``: shows repository, visibility and files, then publishes them in one commit.

With what the commands that publish share: their options, what is shown before, what is said afterwards.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import partial
from typing import Any

import click

from erase_plugins.cli.command import declare, dry_run_option, existing, quiet_client, stacked
from erase_plugins.cli.console import emit, hint, human_bytes, say, state, use_it
from erase_plugins.cli.pairs import asked, draw, drawing_options
from erase_plugins.errors import RequestError
from erase_plugins.plain_text import scrub

#: files of one state that are named; of more the number is told
_NAMED = 20
#: where a command keeps the title of a list of the Hub
_SHELF = "hub_cards.list"

personal_option = click.option(
    "--personal", is_flag=True, help="Send e-mail addresses and home folders as they are; access keys never are."
)
requirement_option = click.option(
    "--requirement", metavar="LINE",
    help="Where to get erase-plugins, pinned: 'erase-plugins @ git+https://HOST/OWNER/NAME@COMMIT'.",
)  # fmt: skip
#: what the page of an artifact tells its readers
reader_options = stacked(
    requirement_option,
    click.option("--space", metavar="OWNER/NAME", help="Space where readers can try it; the page links it."),
)
push_options = stacked(
    click.option("--private", is_flag=True, help="Make a new repository private; refuse an existing public one."),
    click.option("--create-pr", is_flag=True, help="Open a pull request instead of changing the branch."),
    click.option("--revision", metavar="BRANCH", help="Branch to push to."),
    click.option("--message", metavar="TEXT", help="First line of the commit."),
    click.option("--license", metavar="ID", help="Licence id or other:NAME, where that of the base is not known."),
    click.option("--parent", metavar="COMMIT", help="Refuse unless the repository is still at this commit."),
    click.option("--prune", is_flag=True, help="Take off evidence and artifacts not sent anew; replace foreign files."),
    click.option(
        "--hub-collection",
        metavar="TITLE",
        expose_value=False,
        callback=lambda ctx, _, title: ctx.meta.update({_SHELF: title}),
        help="Put it on your list of that title among the Hub's collections; made if there is none.",
    ),
    personal_option,
    dry_run_option,
)


def show(bundle: Any) -> None:
    """Repository, visibility, every file with its state and size, and the lines of the card that change."""
    who = "private" if bundle.private else "public"
    there = "not looked at" if bundle.unseen else "exists" if bundle.exists else "new"
    say(f"{bundle.repo}: {there}, {who}, {human_bytes(bundle.bytes)} to send")
    if bundle.unseen:
        hint(f"every file counts as new: {bundle.unseen}")
    for change in ("new", "changed", "same"):
        files = [item for item in bundle.files if item.state == change]
        for item in files[:_NAMED]:
            say(f"  {change:<8} {item.name}  ({human_bytes(item.size)})")
        if rest := files[_NAMED:]:
            say(f"  {change:<8} and {len(rest)} more ({human_bytes(sum(one.size for one in rest))}); --json lists them")
    for name in bundle.removed:
        say(f"  removed  {name}")
    for line in bundle.diff[:40]:
        say(f"    {line}")


def say_pushed(done: Any, repo: str, use: str) -> None:
    """What the push did, and a line that uses it.

    Args:
        done: `hub_cards.sending.Pushed`.
        repo: "owner/name".
        use: the last line, for people.
    """
    if done.dry_run:
        from hub_cards.pushing import unchecked

        say(f"nothing was changed (dry run{unchecked(done.bundle)})")
    elif not (done.bundle.changed or done.bundle.removed):
        say(f"everything is there already at {(done.commit or '')[:12]}; no commit was made")
    else:
        where = f"pull request {done.pull_request}" if done.pull_request else f"commit {(done.commit or '')[:12]}"
        say(f"pushed {len(done.sent)} files to {repo}: {where}")
        say(use)
    title, address = click.get_current_context().meta.get(_SHELF), None
    if title and not done.dry_run:
        from hub_cards.pushing import put

        address = put(repo, title, done.bundle.private)
        say(f"listed in the collection '{title}': {address}")
    emit({
        "schema": 1, "dry_run": done.dry_run, **done.bundle.to_dict(), "commit": done.commit, "sent": list(done.sent),
        "pull_request": done.pull_request, **({"hub_collection": address} if address else {}),
    })  # fmt: skip


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
    from hub_cards.other_pushes import push_head, push_merged
    from hub_cards.pushing import push

    quiet_client()
    place, (wanted, blur) = existing(artifact), asked(given)
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
        say_pushed(full, repo, use_it(model=repo))
        return
    if wanted["pairs"] or wanted["prompts"]:
        page["gallery"] = partial(draw, loaded, report, wanted, blur)
    done = push(loaded, repo, report=report, blur=blur, **page, **given)
    say_pushed(done, repo, use_it(f"hub:{repo}", model=loaded.manifest.base.get("model") or ""))


def asked_licence(base: Mapping[str, Any], given: str | None) -> str | None:
    """The given licence id; where nobody knows that of the base and somebody is at the terminal, what they type."""
    from erase_plugins.licences import licence_of

    if licence_of(base, given) is not None or state().json or not sys.stdin.isatty():
        return given
    name = base.get("model") or "the base model"
    unknown = f"The licence of {scrub(str(name))} is not known here. Licence id as the Hub names it"
    return str(click.prompt(unknown)).strip()
