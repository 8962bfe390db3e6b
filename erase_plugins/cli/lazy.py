"""A command that is imported when it is used, so that listing commands costs nothing."""

from __future__ import annotations

import importlib
from typing import Any

import click


class LazyCommand(click.Command):
    """Stands for a click command of a module; name and short help are known without importing it.

    Args:
        name: of the command.
        module: where it is.
        short_help: one line.
        attribute: its name there.
    """

    def __init__(self, name: str, module: str, short_help: str, attribute: str = "command") -> None:
        super().__init__(name, short_help=short_help)
        self.module, self.attribute = module, attribute

    @property
    def real(self) -> click.Command:
        """The command itself."""
        found: click.Command = getattr(importlib.import_module(self.module), self.attribute)
        return found

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> click.Context:
        return self.real.make_context(info_name, args, parent, **extra)

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        return self.real.get_params(ctx)

    def invoke(self, ctx: click.Context) -> Any:
        return self.real.invoke(ctx)
