"""``erase-plugins info NAME``: options with types, defaults, bounds and help, straight from method, suite or attack."""

from __future__ import annotations

from typing import Any

import click

from erase_plugins.cli.command import declare, quote
from erase_plugins.cli.console import emit, say, table
from erase_plugins.errors import RequestError
from erase_plugins.needs import fitting, needs_of, packages_of
from erase_plugins.options import as_setting, preset_files


@declare("info")
@click.argument("method")
@click.option("--preset", metavar="FILE", help="Show what this preset would set as well.")
def command(method: str, preset: str | None) -> None:
    """Show a method's options, paper and families, or the options of a suite or attack."""
    from erase_plugins.manager import get_manager

    manager = get_manager()
    if method not in {entry.item.id for entry in manager.methods()}:
        for kind, example in _EXAMPLES.items():
            found = next((entry.item for entry in manager.evaluators(kind) if entry.item.id == method), None)
            if found is not None:
                if preset is not None:
                    raise RequestError(f"{method} is no method; presets are for methods")
                _measuring(found, kind, example)
                return
    found = manager.method(method)
    families = [entry.item for entry in manager.families()]
    options = option_rows(found)
    own = None if preset is None else _with_preset(options, preset, found)
    facts: dict[str, Any] = {
        "schema": 1, "id": found.id, "title": found.title, "summary": found.summary, "paper": found.paper,
        "needs": sorted(needs_of(found)), "families": list(fitting(found, families)),
        **{name: sorted(getattr(found, name)) for name in ("kinds", "produces")}, "options": options,
        "presets": preset_files(found.Options), **({} if own is None else {"preset": own.to_dict()}),
    }  # fmt: skip
    emit(facts)
    say(f"{found.id}: {found.title}")
    say(f"  {found.summary}")
    say(f"  paper: {found.paper}")
    for name in ("needs", "families", "kinds", "produces"):
        say(f"  {name}: {', '.join(facts[name])}")
    if facts["presets"]:
        say(f"  presets: {', '.join(facts['presets'])}")
    if own is not None:
        say(f"  {own.where}: its values stand in front, marked with *")
    _show(options)
    again = "" if preset is None else f" --preset {quote(preset)}"
    say(f"example: erase-plugins run {found.id} --model pocket --erase pizza{again} --out no-pizza")


def _with_preset(rows: list[dict[str, Any]], file: str, method: Any) -> Any:
    """Reads and checks a preset and notes in every row what it sets; returns the preset."""
    from erase_plugins.engine.own_preset import load_preset
    from erase_plugins.workflow.run import known_models

    own = load_preset(file)
    for name, values in own.check(method, known_models()).items():
        for row in rows:
            if row["option"] in values:
                row.setdefault("preset", {})[name] = _plain(values[row["option"]])
    return own


_EXAMPLES = {
    "suite": "erase-plugins evaluate --suite {} --out report",
    "attack": "erase-plugins attack no-pizza --attack {} --out attacked",
}


def _measuring(item: Any, kind: str, example: str) -> None:
    """A suite or an attack."""
    options = option_rows(item) if getattr(item, "Options", None) is not None else []
    facts = {"schema": 1, "id": item.id, "title": item.title, "kind": kind, "needs": sorted(packages_of(item))}
    budgets = {"budgets": dict(item.budgets)} if kind == "attack" else {}
    emit({**facts, **budgets, "options": options})
    say(f"{item.id}: {item.title}")
    for name, queries in budgets.get("budgets", {}).items():
        say(f"  budget {name}: {queries} queries")
    _show(options)
    say(f"example: {example.format(item.id)}")


def _show(options: list[dict[str, Any]]) -> None:
    if not options:
        say("  no options")
        return
    columns = ("option", "type", "default", "allowed", "help")
    table("options (--set option=value)", columns, ([_text(row, name) for name in columns] for row in options))


def option_rows(method: Any) -> list[dict[str, Any]]:
    """JSON-ready description of a method's options."""
    from erase_plugins.options import describe

    return [
        {
            "option": item.name, "type": item.type, "default": _plain(item.default), "low": item.low, "high": item.high,
            "choices": list(item.choices), "per": {key: _plain(value) for key, value in item.per.items()},
            "help": item.help,
        }
        for item in describe(method.Options)
    ]  # fmt: skip


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _value(value: Any) -> str:
    return as_setting(value) or "none"


def _text(row: dict[str, Any], column: str) -> str:
    if column == "default":
        special = "".join(f"; {name}: {_value(value)}" for name, value in row["per"].items())
        own = "".join(f"*{name or 'always'}: {_value(value)}; " for name, value in row.get("preset", {}).items())
        return own + _value(row["default"]) + special
    if column == "allowed":
        if row["choices"]:
            return ", ".join(map(str, row["choices"]))
        low, high = row["low"], row["high"]
        if low is None and high is None:
            return ""
        return f"{'' if low is None else format(low, 'g')}..{'' if high is None else format(high, 'g')}"
    return str(row[column])
