"""``erase-plugins new-plugin``: the skeleton of a package of any kind, and its test."""

from __future__ import annotations

import re
from pathlib import Path

import click

from erase_plugins.cli.command import check_output, declare, dry_run_option, quote
from erase_plugins.cli.console import emit, say
from erase_plugins.errors import RequestError
from erase_plugins.testing.template import KINDS, write_plugin_template


@declare("new-plugin", example="my-eraser")
@click.argument("name")
@click.option(
    "--kind", type=click.Choice(list(KINDS)), default="closed-form", show_default=True,
    help="A method that solves for its change, trains it, trains a language model, or guards; or another kind.",
)  # fmt: skip
@click.option("--out", metavar="DIR", help="Folder to write; named after the plugin if left out.")
@dry_run_option
def command(name: str, kind: str, out: str | None, dry_run: bool) -> None:
    """Write the skeleton of a plugin package: pyproject, one file with what is registered, one test."""
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        raise RequestError(f"plugin name '{name}' must be lower case words joined by '-', for example my-eraser")
    wanted = Path(out or name)
    if (wanted / "pyproject.toml").is_file():  # a plugin written earlier may have been worked on since
        raise RequestError(f"'{wanted.name}' is not empty, and nothing in it is replaced; choose another --out")
    place = check_output(out or name, True, kind="", dry_run=dry_run)  # an empty folder is as good as none
    if dry_run:
        say(f"would write the plugin {name} to {place}")
        emit({"schema": 1, "dry_run": True, "folder": str(place)})
        return
    write_plugin_template(name, place, kind)
    files = sorted(item.relative_to(place).as_posix() for item in place.rglob("*") if item.is_file())
    steps = [quote("pip", "install", "-e", place), f"erase-plugins list --plugin {name}", quote("pytest", place)]
    say(f"wrote {place}: {', '.join(files)}")
    say("next:")
    for step in steps:
        say(f"  {step}")
    emit({"schema": 1, "folder": str(place), "files": files, "next": steps})
