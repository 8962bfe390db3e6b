"""The hooks. Nothing but the marker is imported before a hook's object is used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from erase_plugins import hookimpl

if TYPE_CHECKING:
    from erase_assoc_memory.evaluator import GuardRecall
    from erase_assoc_memory.method import AntiHebbian


@hookimpl
def erase_methods() -> list[AntiHebbian]:
    from erase_assoc_memory.method import AntiHebbian

    return [AntiHebbian()]


@hookimpl
def erase_suites() -> list[GuardRecall]:
    from erase_assoc_memory.evaluator import GuardRecall

    return [GuardRecall()]


@hookimpl
def erase_cli_commands(cli: Any) -> None:
    from erase_assoc_memory.command import guard

    cli.add_command(guard)


@hookimpl
def erase_comfy_nodes(spec: Any) -> list[Any]:
    from erase_assoc_memory.node import node

    return [node(spec)]


@hookimpl
def erase_card_sections(artifact: Any, report: Any) -> list[str]:
    if getattr(report, "suite", "") != "guard_recall":
        return []
    from erase_assoc_memory.card import section

    return [section(report)]
