"""A command that is imported when it is used, so that listing commands costs nothing."""

from __future__ import annotations

import importlib
from typing import Any

import click


class LazyCommand(click.Command):
    """Stands for a click command ``command`` of a module; name and short help are known without importing it."""

    def __init__(self, name: str, module: str, short_help: str) -> None:
        super().__init__(name, short_help=short_help)
        self.module = module

    @property
    def real(self) -> click.Command:
        """The command itself."""
        return importlib.import_module(self.module).command

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> click.Context:
        return self.real.make_context(info_name, args, parent, **extra)

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        return self.real.get_params(ctx)

    def invoke(self, ctx: click.Context) -> Any:
        return self.real.invoke(ctx)
