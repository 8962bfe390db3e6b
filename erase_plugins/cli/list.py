"""``erase-plugins list``: everything registered, built-in and outside plugins alike, with where it comes from."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import click

from erase_plugins.cli.command import declare
from erase_plugins.cli.console import emit, say, table
from erase_plugins.errors import UnknownName
from erase_plugins.extras import install, missing_extras
from erase_plugins.needs import fitting, needs_of, packages_of

KINDS = ("methods", "families", "layouts", "judges", "suites", "attacks", "guard-stages", "plugins")


@declare("list", example="attacks")
@click.argument("what", type=click.Choice(KINDS), required=False)
@click.option("--plugin", "only", metavar="NAME", help="Only what this plugin registers.")
def command(what: str | None, only: str | None) -> None:
    """List what is registered; without an argument, everything."""
    from erase_plugins.manager import get_manager

    manager = get_manager()
    if only is not None:
        _check_plugin(manager, only)
    manager.check()  # what a plugin fails to register is a problem, whatever is listed
    shown = (what,) if what else KINDS
    rows = {
        kind: [row for row in rows_of(manager, kind) if only in (None, row["plugin"], row["package"])] for kind in shown
    }
    problems = [item.to_dict() for item in manager.problems if only in (None, item.plugin, item.package)]
    notices = [item.to_dict() for item in manager.notices if only in (None, item.plugin, item.package)]
    emit({"schema": 1, **rows, "problems": problems, "notices": notices})
    for kind in shown:
        if rows[kind] or only is None or what:  # of one plugin only what it has
            _show(kind, rows[kind])
    for item in problems:
        say(f"problem: {item['package']} {item['version']}, {item['plugin']} ({item['stage']}): {item['message']}")
    if problems:
        say("these are left out, the rest works; 'erase-plugins doctor' says more")
    for item in notices:
        say(f"notice: {item['package']} {item['version']}, {item['plugin']}: {item['message']}")


def _check_plugin(manager: Any, name: str) -> None:
    """Refuses a plugin that is not there, loaded or broken.

    Raises:
        UnknownName: names the closest.
    """
    known = {item for row in manager.plugins() for item in (row["name"], row["package"])}
    known |= {item for problem in manager.problems for item in (problem.plugin, problem.package)}
    if name not in known:
        raise UnknownName("plugin or package", name, known)


def rows_of(manager: Any, kind: str) -> list[dict[str, Any]]:
    """JSON-ready description of everything of one kind."""
    if kind == "plugins":
        return [{**row, "plugin": row["name"]} for row in manager.plugins()]
    families = [entry.item for entry in manager.families()]
    entries = {
        "methods": manager.methods,
        "families": manager.families,
        "layouts": manager.layouts,
        "judges": lambda: manager.evaluators("judge"),
        "suites": lambda: manager.evaluators("suite"),
        "attacks": lambda: manager.evaluators("attack"),
        "guard-stages": manager.guard_stages,
    }[kind]()
    return [{**_facts(kind, entry.item, families), **_origin(entry)} for entry in entries]


def _origin(entry: Any) -> dict[str, Any]:
    lacking = missing_extras(packages_of(entry.item))
    status = "ok" if not lacking else f"needs {', '.join(lacking)}: {install(lacking)}"
    return {
        "plugin": entry.plugin,
        "package": entry.package,
        "version": entry.version,
        "file": entry.file,
        "status": status,
    }


def _facts(kind: str, item: Any, families: list[Any]) -> dict[str, Any]:
    facts: dict[str, Any] = {"id": item.id, "title": item.title}
    if kind == "methods":
        facts |= {"needs": sorted(needs_of(item)), "families": list(fitting(item, families))}
        facts |= {name: sorted(getattr(item, name)) for name in ("kinds", "produces")}
        facts |= {"summary": item.summary, "paper": item.paper}
    elif kind == "families":
        facts |= {"components": list(item.components), "groups": sorted(item.groups), "offers": sorted(item.offers)}
    elif kind == "layouts":
        facts |= {"readers": list(item.readers)}
    elif kind == "judges":
        facts |= {"modality": getattr(item, "modality", "image")}
    elif kind == "guard-stages":
        facts |= {"roles": sorted(item.roles)}
    elif kind == "attacks":
        facts |= {"budgets": dict(item.budgets)}
    return facts


_COLUMNS = {
    "methods": ("id", "title", "needs", "plugin", "package", "version", "file", "status"),
    "families": ("id", "title", "offers", "plugin", "package", "version", "file", "status"),
    "layouts": ("id", "title", "readers", "plugin", "package", "version", "file", "status"),
    "judges": ("id", "title", "plugin", "package", "version", "file", "status"),
    "suites": ("id", "title", "plugin", "package", "version", "file", "status"),
    "attacks": ("id", "title", "budgets", "plugin", "package", "version", "file", "status"),
    "guard-stages": ("id", "title", "roles", "plugin", "package", "version", "file", "status"),
    "plugins": ("name", "package", "version", "file", "hooks"),
}


def _show(kind: str, rows: Iterable[dict[str, Any]]) -> None:
    columns = _COLUMNS[kind]
    table(kind, columns, ([_cell(row[name]) for name in columns] for row in rows))


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {number}" for name, number in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
