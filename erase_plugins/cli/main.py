"""Entry point of ``erase-plugins``. Imports neither torch nor rich: help must come at once."""

from __future__ import annotations

from typing import Any

import click

from erase_plugins import __version__
from erase_plugins.cli.console import State
from erase_plugins.cli.group import LazyGroup


def _load_files(ctx: click.Context, parameter: click.Parameter, files: tuple[str, ...]) -> None:
    """Loads one-file plugins while options are read: their commands must be known before a command is looked up."""
    if files:
        from erase_plugins.manager import get_manager

        for file in files:
            get_manager().load_file(file)


#: what is shown without arguments: what people come for; the rest is one word away
FIRST = """See a concept disappear and the rest stay, on the embedded model, in a minute:
  erase-plugins demo

Erase from a model of yours (a folder, a file, or a name on the Hub), and use the LoRA files that it writes:
  erase-plugins run uce --model MODEL --erase "van gogh" --out no-van-gogh
  erase-plugins generate no-van-gogh --model MODEL --prompt "a night by van gogh" --out picture.png

Measure it, and try to bring the concept back (yours, or somebody else's model):
  erase-plugins evaluate no-van-gogh --model MODEL --out report
  erase-plugins audit MODEL no-van-gogh --out audit

All commands: erase-plugins --help. All methods: erase-plugins list methods."""


@click.group(
    "erase-plugins",
    cls=LazyGroup,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)
@click.version_option(__version__, prog_name="erase-plugins", message="%(prog)s %(version)s")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.option("--from", "prefer", metavar="PLUGIN", help="Plugin to prefer where two claim the same name.")
@click.option("--plugin", multiple=True, metavar="FILE.py", is_eager=True, expose_value=False, callback=_load_files,
              help="Load a one-file plugin; repeatable.")  # fmt: skip
@click.pass_context
def cli(ctx: click.Context, debug: bool, prefer: str | None) -> None:
    """Erase concepts from generative models: run a method, apply the result, undo it, measure it.

    Start with `erase-plugins demo`.
    """
    settings = ctx.ensure_object(State)
    settings.debug = settings.debug or debug
    if prefer is not None:
        from erase_plugins.manager import get_manager

        _prefer(settings, get_manager(), prefer)
    if ctx.invoked_subcommand is None:
        click.echo(FIRST)


def _prefer(settings: State, manager: Any, plugin: str) -> None:
    """Lets one plugin win where an id is claimed twice, for this invocation."""
    before = manager.preferred

    def undo() -> None:
        manager.preferred = before
        manager.prefer()  # registries are collected again

    manager.prefer(plugin)
    settings.undo.append(undo)


def main() -> None:
    """Console script."""
    cli(prog_name="erase-plugins")


if __name__ == "__main__":
    main()
