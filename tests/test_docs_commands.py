"""Commands in the blocks of all pages: they parse, and artifacts that they take were made further up."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import click
import pytest

from erase_plugins.cli.main import cli

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", "CONTRIBUTING.md", *sorted(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")))
#: docs/cli.md, which is written by the program, has one line of usage a command and nothing that follows on anything
PAGES = tuple(page for page in PAGES if page != "docs/cli.md")
#: arguments that are artifacts on disk
ARTIFACTS = ("artifact", "artifacts")
#: where a command writes, as its option is called
PLACES = ("out", "into")
#: a page that goes on from the README's first commands says so by this link
BEGINNING = "README.md#erase-something"


def commands(page: str) -> list[list[str]]:
    """Words of every command of ours in fenced and indented blocks, in their order."""
    text = (ROOT / page).read_text(encoding="utf-8").replace("\\\n", " ")
    fenced = False
    found = []
    for line in text.splitlines():
        if line.lstrip().startswith("```"):
            fenced = not fenced
            continue
        inner = re.search(r"\$\((erase-plugins [^|)]*)", line)
        words = inner[1] if inner else line.strip()
        if (fenced or line.startswith("    ")) and words.startswith("erase-plugins "):
            found.append(shlex.split(words, comments=True)[1:])
    return found


def parsed(words: list[str]) -> tuple[list[str], dict[str, Any]]:
    """The command's name and what its parser makes of the words; files need not be there.

    Raises:
        click.UsageError: there is no such command or option, or a required one is missing.
    """
    command: Any = cli
    name: list[str] = []
    context = click.Context(cli)
    while isinstance(command, click.Group):
        name.append(words[0])
        command, words = command.get_command(context, words[0]), words[1:]
        if command is None:
            raise click.UsageError(f"no command {' '.join(name)}")
        context = click.Context(command, parent=context, info_name=name[-1])
    values, rest, _ = command.make_parser(context).parse_args(list(words))
    if rest:
        raise click.UsageError(f"too many words: {rest}")
    for item in command.params:
        given = values.get(item.name)
        if isinstance(item.type, click.Choice) and isinstance(given, str):
            item.type.convert(given, item, context)
        if isinstance(item, click.Option) and item.required and item.name not in values:
            raise click.UsageError(f"{item.opts[0]} is missing")
    return name, values


def listed(value: Any) -> list[str]:
    """What one parameter was given."""
    return [value] if isinstance(value, str) else [item for item in value or () if isinstance(item, str)]


@pytest.mark.parametrize("page", PAGES)
def test_every_command_parses(page: str) -> None:
    for words in commands(page):
        try:
            parsed(words)
        except click.UsageError as error:
            pytest.fail(f"{page}: erase-plugins {shlex.join(words)}: {error.format_message()}")


@pytest.mark.parametrize("page", PAGES)
def test_artifacts_are_made_before_they_are_used(page: str) -> None:
    made: set[str] = set()
    if BEGINNING in (ROOT / page).read_text(encoding="utf-8"):
        made |= {"no-pizza", "no-pizza-report"}
    for words in commands(page):
        _, values = parsed(words)
        taken = [item for name in ARTIFACTS for item in listed(values.get(name))]
        local = [item for item in taken if re.fullmatch(r"[a-z0-9-]+", item) and item not in made]
        assert not local, f"{page}: {local} in: erase-plugins {shlex.join(words)}"
        made |= {item for name in PLACES for item in listed(values.get(name))}


def test_pages_have_commands_to_look_at() -> None:
    assert sum(len(commands(page)) for page in PAGES) > 60
