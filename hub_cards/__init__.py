"""Erased models on the Hub: a card with the evidence, push and pull, and ``hub:name/repository@revision`` as a path.

A plugin like any other: it joins through the entry point group and erase_plugins does not know it. Importing it costs
nothing: neither torch nor the Hub's client is loaded before they are needed.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from erase_plugins.hookspecs import hookimpl

#: public name -> its module, imported when the name is used
_PUBLIC = {
    "card": "hub_cards.model_card",
    "draw_pairs": "erase_plugins.workflow.pairs",
    "merged": "hub_cards.pulling",
    "pull": "hub_cards.pulling",
    "pull_collection": "hub_cards.pulling",
    "push": "hub_cards.pushing",
    "push_collection": "hub_cards.other_pushes",
    "push_merged": "hub_cards.other_pushes",
    "search": "hub_cards.searching",
}
#: command -> one line of help; the modules in hub_cards.cli are imported when the command is used
COMMANDS = {
    "card": "Write a model card for an artifact: what is gone, how well, how to use it.",
    "push": "Publish an artifact on the Hub in one commit.",
    "space": "Write or publish a web page that draws base and erased model side by side.",
    "pull": "Fetch a published artifact and verify it.",
    "search": "Find published artifacts by name, concept, tag and base model.",
}

__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'hub_cards' has no attribute '{name}'")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


@hookimpl
def erase_cli_commands(cli: Any) -> None:
    import click

    from erase_plugins.cli.lazy import LazyCommand

    for name, text in COMMANDS.items():
        cli.add_command(LazyCommand(name, f"hub_cards.cli.{name}", text))
    library = click.Group("collection")  # joins the command of that name
    for name, text in (("push", "Publish a collection."), ("pull", "Fetch some of a published collection.")):
        library.add_command(LazyCommand(name, "hub_cards.cli.collection", text, name))
    cli.add_command(library)


@hookimpl
def erase_resolve_artifact(reference: str) -> Path | None:
    from erase_plugins.artifacts.reference import SCHEME

    if not reference.startswith(SCHEME):
        return None
    from hub_cards.pulling import fetch

    return fetch(reference)


@hookimpl
def erase_functions() -> dict[str, Any]:
    def called(name: str) -> Any:
        return lambda *arguments, **options: __getattr__(name)(*arguments, **options)

    return {name: called(name) for name in _PUBLIC}
