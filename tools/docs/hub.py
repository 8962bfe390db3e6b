"""The generated part of docs/hub.md: the commands of hub_cards."""

from __future__ import annotations

from collections.abc import Iterator

import click

from hub_cards import COMMANDS
from hub_cards.lazy import LazyCommand

START, END = "<!-- generated: commands -->", "<!-- /generated -->"


def commands() -> str:
    """Usage and options of every command of this package."""
    parts = []
    for name, command in _all_commands():
        arguments = " ".join(item.make_metavar(click.Context(command)) for item in command.params if _positional(item))
        rows = ["| option | meaning |", "|---|---|"]
        for item in command.params:
            if isinstance(item, click.Option):
                names = ", ".join(f"`{option}`" for option in (*item.opts, *item.secondary_opts))
                rows.append(f"| {names}{f' {item.metavar}' if item.metavar else ''} | {item.help} |")
        parts.append(
            f"### erase-plugins {name}\n\n    erase-plugins {name} {arguments} [OPTIONS]\n\n" + "\n".join(rows)
        )
    return "\n\n".join(parts)


def _all_commands() -> Iterator[tuple[str, click.Command]]:
    """Full name and command, the members of groups one by one."""
    for name, text in COMMANDS.items():
        command = LazyCommand(name, f"hub_cards.cli.{name}", text).real
        if isinstance(command, click.Group):
            yield from ((f"{name} {member}", item) for member, item in command.commands.items())
        else:
            yield name, command


def _positional(item: click.Parameter) -> bool:
    return isinstance(item, click.Argument)


def fill(text: str) -> str:
    """``text`` with the part between the marks renewed."""
    before, rest = text.split(START, 1)
    return f"{before}{START}\n\n{commands()}\n\n{END}{rest.split(END, 1)[1]}"
