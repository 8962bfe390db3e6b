"""``erase-plugins info NAME``: options with types, defaults, bounds and help, straight from method, suite or attack.

Of judges, layouts and families it says what 'list' knows, with the package that brings them.
"""

from __future__ import annotations

from typing import Any

import click

from erase_plugins.cli.command import declare, quote
from erase_plugins.cli.console import emit, say, table
from erase_plugins.cli.list import rows_of
from erase_plugins.errors import RequestError
from erase_plugins.needs import fitting, needs_of, packages_of
from erase_plugins.options import as_setting, preset_files


@declare("info", example="uce")
@click.argument("method")
@click.option("--preset", metavar="FILE", help="Show what this preset would set as well.")
def command(method: str, preset: str | None) -> None:
    """Show a method's options, paper and families, or what else is registered under this name."""
    from erase_plugins.manager import get_manager

    manager = get_manager()
    if method not in {entry.item.id for entry in manager.methods()}:
        for kind in ("suite", "attack"):
            found = next((entry.item for entry in manager.evaluators(kind) if entry.item.id == method), None)
            if found is not None:
                if preset is not None:
                    raise RequestError(f"{method} is no method; presets are for methods")
                _measuring(found, kind)
                return
        for kinds in ("judges", "layouts", "families"):
            row = next((row for row in rows_of(manager, kinds) if row["id"] == method), None)
            if row is not None:
                if preset is not None:
                    raise RequestError(f"{method} is no method; presets are for methods")
                _row(row, kinds)
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
    model, made = _tried_on(found)
    again = () if preset is None else ("--preset", preset)
    what = _forgotten(model, found.kinds)
    say("example: " + quote("erase-plugins", "run", found.id, "--model", model, *what, *again, "--out", made))


#: one of those whom pocket-lm knows
PERSON = "Wexsa Tarnfall"


def _tried_on(item: Any) -> tuple[str, str]:
    """The first embedded model that offers what a method, suite or attack needs, and a name for what is made on it."""
    from erase_plugins.families.source import EMBEDDED, POCKET_LM, find_source
    from erase_plugins.workflow.models import find_family

    for model in EMBEDDED:
        if fitting(item, [find_family(find_source(model))]):
            return model, "forgotten" if model == POCKET_LM else "no-pizza"
    return "MODEL", "forgotten"


def _forgotten(model: str, kinds: frozenset[str]) -> tuple[str, ...]:
    """What that model knows and such a method takes, as it is typed."""
    from erase_plugins.families.source import POCKET_LM

    if model == POCKET_LM:
        return ("--erase", *(("withheld", "--kind", "dataset") if "dataset" in kinds else (PERSON, "--kind", "person")))
    if kinds <= {"samples", "record"}:
        return "--forget", "rows.jsonl"
    return "--erase", "pizza", *(() if "object" in kinds else ("--kind", min(kinds)))


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


def _row(row: dict[str, Any], kinds: str) -> None:
    """A judge, layout or family: what 'list' knows of it."""
    kind = {"families": "family"}.get(kinds, kinds.removesuffix("s"))
    emit({"schema": 1, "kind": kind, **row})
    say(f"{row['id']}: {row['title']} ({kind})")
    for name in ("modality", "readers", "components", "groups", "offers"):
        if row.get(name):
            say(f"  {name}: {row[name] if isinstance(row[name], str) else ', '.join(row[name])}")
    say(f"  from: {row['package']} {row['version']} ({row['file']})")


def _measuring(item: Any, kind: str) -> None:
    """A suite or an attack."""
    options = option_rows(item) if getattr(item, "Options", None) is not None else []
    facts = {"schema": 1, "id": item.id, "title": item.title, "kind": kind, "needs": sorted(packages_of(item))}
    budgets = {"budgets": dict(item.budgets)} if kind == "attack" else {}
    emit({**facts, **budgets, "options": options})
    say(f"{item.id}: {item.title}")
    for name, queries in budgets.get("budgets", {}).items():
        say(f"  budget {name}: {queries} queries")
    _show(options)
    model, made = _tried_on(item)
    command, out = ("evaluate", "report") if kind == "suite" else ("attack", "attacked")
    say(f"example: erase-plugins {command} {made} --model {model} --{kind} {item.id} --out {out}")


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
