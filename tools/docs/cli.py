"""The text of docs/cli.md, written from the commands themselves."""

from __future__ import annotations

from typing import Any

import click

from erase_plugins.cli.command import Command
from erase_plugins.cli.group import COMMANDS
from erase_plugins.cli.lazy import LazyCommand
from erase_plugins.cli.main import cli
from hub_cards import COMMANDS as HUB

_HEAD = """# Command line

Every command and option, written from the program by `python -m tools.docs`; do not edit by hand. The main job is
three commands:

```bash
erase-plugins run uce --model pocket --erase pizza --out no-pizza
erase-plugins generate no-pizza --model pocket --prompt "a pizza on a blue background" --out after.png
erase-plugins evaluate no-pizza --model pocket --suite quick --out no-pizza-report
```

`erase-plugins COMMAND --help` shows the options of a command, and for most an example. What holds for all:

- **Exit codes:** 0 ok, 2 wrong request, 3 unsupported, 4 optional package missing, 5 the Hub, 130 Ctrl-C, 1 all else.
- **Errors** are one line on stderr; `--debug` adds the traceback.
- **For programs:** `--json` prints one JSON object on stdout and nothing else, warnings under `hints`; errors become
  `{"error": {...}}`.
- **Look first:** `--dry-run` shows what would be done and touches nothing. What a model cannot know, or would cut, is
  refused before any work.
- **Existing files:** nothing is overwritten without `--force`, and with it only what erase-plugins wrote: other files
  are named and stay. Two commands never write to one place.
- **Interrupted:** Ctrl-C leaves nothing half written. `run --resume` goes on where a method keeps checkpoints; `auto`,
  `sweep`, `compare`, `attack`, `audit` and `request run` go on by themselves when the same command is called again.
- **Terminal:** `NO_COLOR` and `COLUMNS` are respected; consoles without UTF-8 get ASCII.
- **Offline:** with `HF_HUB_OFFLINE=1` only files on disk are used.
- **Completion** in bash: `eval "$(_ERASE_PLUGINS_COMPLETE=bash_source erase-plugins)"`, or `zsh_source`, `fish_source`.
"""


def render() -> str:
    """The whole page."""
    parts = [_HEAD, _section("erase-plugins", cli, cli.help or ""), _index()]
    context = click.Context(cli, info_name="erase-plugins")
    for name in (*COMMANDS, *HUB):
        if name in HUB:  # of the plugin that comes with the package, in force or not
            command: Any = LazyCommand(name, f"hub_cards.cli.{name}", HUB[name]).real
        else:
            command = cli.get_command(context, name)
        parts.append(_section(f"erase-plugins {name}", command, command.help or ""))
        members = command.list_commands(context) if isinstance(command, click.Group) else []
        for inner in members:
            item = command.get_command(context, inner)
            item = item.real if isinstance(item, LazyCommand) else item
            parts.append("#" + _section(f"erase-plugins {name} {inner}", item, item.help or ""))
    return "\n".join(parts)


def _index() -> str:
    texts = {name: text for name, (_, text) in COMMANDS.items()} | HUB
    lines = [f"- [`{name}`](#erase-plugins-{name}): {text}" for name, text in texts.items()]
    return "\n".join([*lines, ""])


def _section(title: str, command: click.Command, text: str) -> str:
    arguments = " ".join(_argument(item) for item in command.params if isinstance(item, click.Argument))
    usage = " ".join(part for part in (title, arguments, "[OPTIONS]") if part)
    lines = [f"## {title}", "", " ".join(text.split()), "", "```", usage, "```", ""]
    if isinstance(command, Command):
        lines += [f"Example: `{f'{title} {command.example}'.rstrip()}`", ""]
    rows = [_row(item) for item in command.params if isinstance(item, click.Option) and not item.hidden]
    if rows:
        lines += ["| option | default | meaning |", "|---|---|---|", *rows, ""]
    return "\n".join(lines)


def _argument(item: click.Argument) -> str:
    if isinstance(item.type, click.Choice):
        return f"[{'|'.join(map(str, item.type.choices))}]"
    name = str(item.name).upper()
    return item.metavar or (name if item.required else f"[{name}]")


def _row(item: click.Option) -> str:
    names = ", ".join(f"`{name}`" for name in (*item.opts, *item.secondary_opts))
    if not item.is_flag:
        names += f" {_value(item)}"
    told = "repeat" in (item.help or "")
    more = " Required." if item.required else " Repeatable." if item.multiple and not told else ""
    return f"| {names} | {_default(item)} | {(item.help or '').replace('|', chr(92) + '|')}{more} |"


def _value(item: click.Option) -> str:
    if isinstance(item.type, click.Choice):
        return " ".join(f"`{choice}`" for choice in item.type.choices)
    whole = item.type == click.INT or isinstance(item.type, click.IntRange)
    number = item.type == click.FLOAT or isinstance(item.type, click.FloatRange)
    return item.metavar or ("INTEGER" if whole else "NUMBER" if number else "TEXT")


def _default(item: click.Option) -> str:
    value: Any = item.default
    shown = item.show_default and isinstance(value, str | int | float) and not item.is_flag
    return f"`{value}`" if shown else ""
