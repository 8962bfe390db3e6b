"""``erase-plugins collection``: many single-concept artifacts as one library. Plugins add commands: push, pull."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from erase_plugins.cli.command import check_output, declare, force_option, quiet_client
from erase_plugins.cli.console import emit, human_bytes, say, table
from erase_plugins.errors import RequestError


class _Group(click.Group):
    """Its own commands, and those that plugins add to a group of this name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*self.commands, *_added()]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        return self.commands.get(name) or _added().get(name)


def _added() -> dict[str, click.Command]:
    from erase_plugins.manager import get_manager

    collector = click.Group("plugins")
    get_manager().cli_commands(collector)
    found = collector.commands.get("collection")
    return dict(found.commands) if isinstance(found, click.Group) else {}


@click.group("collection", cls=_Group)
def command() -> None:
    """A library of many single-concept artifacts: one folder (or repository) with a small index, used in part."""


@declare("build", example="no-pizza no-dog --out library")
@click.argument("artifacts", nargs=-1, required=True, metavar="A B ...")
@click.option("--out", required=True, metavar="DIR", help="Collection folder to write.")
@click.option("--append", is_flag=True, help="Add to the collection that is there.")
@force_option
def build(artifacts: tuple[str, ...], out: str, append: bool, force: bool) -> None:
    """Make a collection of artifact folders (or of folders full of them, as 'sweep' writes); they keep their names."""
    from erase_plugins.workflow.collection import Collection, build_collection

    if not append:
        check_output(out, force, kind="collection")
    members = _members(artifacts)
    if append:
        library = Collection.open(out).append(members, force)
    else:
        library = build_collection(members, out, force)
    say(f"wrote {library.path}: {len(library.entries)} artifacts, {human_bytes(_bytes(library))}")
    emit({"schema": 1, "folder": str(library.path), **facts(library)})


@declare("list", example="hub:me/library --find gogh")
@click.argument("collection", metavar="DIR|hub:OWNER/NAME")
@click.option("--find", "word", metavar="TEXT", help="Only those with this in their name or concept.")
def listed(collection: str, word: str | None) -> None:
    """Show what is in a collection; of a published one only the index is fetched."""
    library = _open(collection)
    wanted = (word or "").casefold()
    rows = [
        (name, ", ".join(entry.erased), entry.method, human_bytes(entry.bytes))
        for name, entry in sorted(library.entries.items())
        if wanted in name.casefold() or any(wanted in text.casefold() for text in entry.erased)
    ]
    table("", ("name", "erased", "method", "size"), rows, numbers=("size",))
    say(f"{len(rows)} of {len(library.entries)} artifacts, base {library.base.get('model')}, family {library.family}")
    emit({"schema": 1, **facts(library, [row[0] for row in rows])})


def _members(paths: tuple[str, ...]) -> dict[str, Any]:
    """Artifact folders by the name of the folder; a folder full of artifacts stands for all of them."""
    from erase_plugins.artifacts.manifest import FILENAME
    from erase_plugins.artifacts.reference import is_reference
    from erase_plugins.cli.command import existing
    from erase_plugins.workflow.artifacts import load_artifact

    found: dict[str, Any] = {}
    for text in paths:
        place = existing(text)
        inner = sorted(item.parent for item in place.glob(f"*/{FILENAME}")) if place.is_dir() else []
        for item in [place] if (place / FILENAME).is_file() or not inner else inner:
            name = (
                load_artifact(item).name if is_reference(text) else item.stem if item.is_file() else item.resolve().name
            )
            if name in found:
                raise RequestError(f"two artifacts are called '{name}'; rename one of the folders")
            found[name] = item
    return found


def _open(place: str) -> Any:
    from erase_plugins.artifacts.reference import is_reference
    from erase_plugins.manager import get_manager
    from erase_plugins.workflow.collection import Collection

    fetch = get_manager().function("pull_collection")
    if fetch is None or not is_reference(place) or Path(place).exists():
        return Collection.open(place)
    quiet_client()
    return fetch(place)


def _bytes(library: Any) -> int:
    return sum(entry.bytes for entry in library.entries.values())


def facts(library: Any, names: Any = None) -> dict[str, Any]:
    """What --json says of a collection."""
    wanted = library.names() if names is None else names
    base = {key: library.base.get(key) for key in ("model", "revision", "family")}
    return {"base": base, "artifacts": [{"name": name, **vars(library.entries[name])} for name in wanted]}


for _member in (build, listed):
    command.add_command(_member)
