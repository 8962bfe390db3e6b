"""The hooks. Nothing but the marker is imported before a hook's object is used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from erase_plugins import hookimpl

if TYPE_CHECKING:
    import click

    from erase_assoc_memory.evaluator import GuardRecall


@hookimpl
def erase_evaluators() -> list[GuardRecall]:
    from erase_assoc_memory.evaluator import GuardRecall

    return [GuardRecall()]


@hookimpl
def erase_cli_commands(cli: Any) -> None:
    from erase_assoc_memory.command import guard

    cli.add_command(guard)
