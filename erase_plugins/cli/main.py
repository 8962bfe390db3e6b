"""Entry point of ``erase-plugins``. Imports neither torch nor rich: help must come at once."""

from __future__ import annotations

import os

import click

from erase_plugins import __version__
from erase_plugins.cli.console import State
from erase_plugins.cli.group import LazyGroup


@click.group(
    "erase-plugins",
    cls=LazyGroup,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)
@click.version_option(__version__, prog_name="erase-plugins", message="%(prog)s %(version)s")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.option("--from", "prefer", metavar="PLUGIN", help="Plugin to prefer where two claim the same name.")
@click.option("--plugin", "plugin_files", multiple=True, metavar="FILE.py", help="Load a one-file plugin; repeatable.")
@click.pass_context
def cli(ctx: click.Context, debug: bool, prefer: str | None, plugin_files: tuple[str, ...]) -> None:
    """Erase concepts from generative models: run a method, apply the result, undo it, measure it.

    Start with `erase-plugins demo`.
    """
    settings = ctx.ensure_object(State)
    settings.debug = settings.debug or debug
    if prefer is not None:
        _prefer(settings, prefer)
    if plugin_files:
        from erase_plugins.manager import get_manager

        for file in plugin_files:
            get_manager().load_file(file)
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def _prefer(settings: State, plugin: str) -> None:
    """Lets one plugin win where an id is claimed twice, for this invocation."""
    from erase_plugins.errors import UnknownName
    from erase_plugins.manager import get_manager

    known = [row["name"] for row in get_manager().plugins()]
    if plugin not in known:
        raise UnknownName("plugin", plugin, known)
    before = os.environ.get("ERASE_PLUGINS_FROM")

    def switch(value: str | None) -> None:
        if value is None:
            os.environ.pop("ERASE_PLUGINS_FROM", None)
        else:
            os.environ["ERASE_PLUGINS_FROM"] = value
        get_manager()._cache.clear()

    switch(plugin if before is None else f"{before},{plugin}")
    settings.undo.append(lambda: switch(before))


def main() -> None:
    """Console script."""
    cli(prog_name="erase-plugins")


if __name__ == "__main__":
    main()
