"""``python -m erase_plugins.testing hub``: a Hub on this machine, to try publishing without an account."""

from __future__ import annotations

import shlex
import signal
import tempfile
import threading
from contextlib import suppress
from pathlib import Path

import click


@click.group("python -m erase_plugins.testing")
def tools() -> None:
    """Tools to try things out without a network."""


@tools.command()
def hub() -> None:
    """A Hub on this machine that push, pull, search and collection talk to; Ctrl-C ends it.

    It prints variables to paste into another terminal. What was pushed is kept in memory only, and its account and
    token are good for nothing else.
    """
    from erase_plugins.testing.hub_server import HubServer

    with HubServer() as server, tempfile.TemporaryDirectory(prefix="hub-home-") as home:
        variables = server.environment(Path(home))
        click.echo("export " + " ".join(f"{name}={shlex.quote(value)}" for name, value in variables.items()))
        click.echo(f"a Hub at {server.url}: paste that line into another terminal, then", err=True)
        click.echo(f"  erase-plugins push ARTIFACT {server.account}/NAME --license mit", err=True)
        for number in (signal.SIGINT, signal.SIGTERM):  # a shell's background jobs begin with Ctrl-C switched off
            signal.signal(number, signal.default_int_handler)
        with suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    tools(prog_name="python -m erase_plugins.testing")
