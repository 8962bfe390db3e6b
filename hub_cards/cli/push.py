"""``erase-plugins push``: shows repository, visibility and files, then publishes them in one commit."""

from __future__ import annotations

from typing import Any

import click

from erase_plugins.cli.command import declare, dry_run_option, existing
from erase_plugins.cli.console import emit, human_bytes, say
from hub_cards.cli.pictures import drawing_options, notice_option


@declare("push")
@click.argument("artifact")
@click.argument("repo", metavar="OWNER/NAME")
@click.option("--report", metavar="PATH", help="Report of its evaluation; goes onto the card and along.")
@click.option("--private", is_flag=True, help="Make a new repository private; refuse an existing public one.")
@click.option("--create-pr", is_flag=True, help="Open a pull request instead of changing the branch.")
@click.option("--revision", metavar="BRANCH", help="Branch to push to.")
@click.option("--message", metavar="TEXT", help="First line of the commit.")
@click.option("--license", "licence", metavar="ID", help="Licence id, where that of the base model is not known.")
@click.option("--parent", metavar="COMMIT", help="Refuse unless the repository is still at this commit.")
@click.option("--pictures/--no-pictures", default=True, help="Publish pictures of report and pairs.")
@click.option("--gallery", metavar="DIR", help="Publish the pairs that 'card --pairs' wrote there.")
@drawing_options
@notice_option
@dry_run_option
def command(
    artifact: str, repo: str, report: str | None, private: bool, create_pr: bool, revision: str | None,
    message: str | None, licence: str | None, parent: str | None, pictures: bool, gallery: str | None,
    pairs: int | None, prompts: tuple[str, ...], model: str | None, device: str, unblurred: bool, adult: bool | None,
    dry_run: bool,
) -> None:  # fmt: skip
    """Publish an artifact folder with its card. Log in with `hf auth login` or HF_TOKEN."""
    from erase_plugins.artifacts.artifact import load_artifact
    from hub_cards.cli.pictures import draw
    from hub_cards.errors import check_repo
    from hub_cards.pushing import push

    quiet_client()
    loaded = load_artifact(existing(artifact))
    drawn = draw(loaded, report, pairs, prompts, model, device) if pictures and check_repo(repo) else None
    done = push(
        loaded, repo, report=report, private=private, create_pr=create_pr, revision=revision, message=message,
        license=licence, parent=parent, pictures=pictures, gallery=drawn or gallery, blur=False if unblurred else None,
        adult=adult, dry_run=dry_run, show=_show,
    )  # fmt: skip
    nothing = not (done.bundle.changed or done.bundle.removed)
    if dry_run:
        say("nothing was changed (dry run)")
    elif nothing:
        say(f"everything is there already at {(done.commit or '')[:12]}; no commit was made")
    else:
        where = f"pull request {done.pull_request}" if done.pull_request else f"commit {(done.commit or '')[:12]}"
        say(f"pushed {len(done.sent)} files to {repo}: {where}")
        say(f"use it: erase-plugins generate hub:{repo} --prompt ... --out picture.png")
    emit({
        "schema": 1, "dry_run": dry_run, **done.bundle.to_dict(), "commit": done.commit, "sent": list(done.sent),
        "pull_request": done.pull_request,
    })  # fmt: skip


def _show(bundle: Any) -> None:
    who = "private" if bundle.private else "public"
    say(f"{bundle.repo}: {'exists' if bundle.exists else 'new'}, {who}, {human_bytes(bundle.bytes)} to send")
    for item in bundle.files:
        say(f"  {item.state:<8} {item.name}  ({human_bytes(item.size)})")
    for name in bundle.removed:
        say(f"  removed  {name}")
    for line in bundle.diff[:40]:
        say(f"    {line}")


def quiet_client() -> None:
    """No progress bars where nobody watches them."""
    import sys

    if not sys.stderr.isatty():
        from huggingface_hub.utils import disable_progress_bars

        disable_progress_bars()
