"""The hooks. Nothing but the marker is imported before a hook's object is used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from erase_plugins import hookimpl

if TYPE_CHECKING:
    import click

    from erase_fbqc.evaluator import ThresholdSuite


@hookimpl
def erase_suites() -> list[ThresholdSuite]:
    from erase_fbqc.evaluator import ThresholdSuite

    return [ThresholdSuite()]


@hookimpl
def erase_cli_commands(cli: click.Group) -> None:
    from erase_fbqc.command import fbqc

    cli.add_command(fbqc)


@hookimpl
def erase_card_sections(artifact: Any, report: Any) -> list[str]:
    details: Mapping[str, Any] = getattr(report, "details", None) or {}
    if not isinstance(details.get("fbqc"), Mapping):
        return []
    from erase_fbqc.result import section

    return [section(dict(details["fbqc"]))]
