"""``erase-plugins collection``: many single-concept artifacts as one library, built, listed, pushed, pulled in part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from erase_plugins.cli.command import check_output, declare, force_option, saved_facts, say_saved
from erase_plugins.cli.console import emit, human_bytes, say, table
from erase_plugins.errors import RequestError
from hub_cards.cli.pushed import push_options, requirement_option, say_pushed, show
from hub_cards.references import SCHEME


@click.group("collection")
def command() -> None:
    """A library of many single-concept artifacts: one folder (or repository) with a small index, used in part."""


@declare("build")
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
    emit({"schema": 1, "folder": str(library.path), **_facts(library)})


@declare("list")
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
    emit({"schema": 1, **_facts(library, [row[0] for row in rows])})


@declare("push")
@click.argument("folder", metavar="DIR")
@click.argument("repo", metavar="OWNER/NAME")
@requirement_option
@push_options
def push(folder: str, repo: str, **options: Any) -> None:
    """Publish a collection with its card; only what differs is sent, and nothing leaves without --prune."""
    from hub_cards.cli.push import quiet_client
    from hub_cards.collections import push_collection

    quiet_client()
    done = push_collection(folder, repo, **options, show=show)
    say_pushed(done, repo, f"use some of it: erase-plugins collection pull {repo} NAME NAME --into mine")


@declare("pull")
@click.argument("repo", metavar="OWNER/NAME[@REVISION]")
@click.argument("names", nargs=-1, metavar="[NAME ...]")
@click.option("--names-file", type=click.Path(exists=True, dir_okay=False), help="Text file with one name a line.")
@click.option("--into", metavar="DIR", help="Collection folder to make or to add to; with --merge an artifact folder.")
@click.option("--merge", is_flag=True, help="Make one artifact of them.")
@click.option("--model", help="Base model, to write LoRA files of the merged artifact.")
@click.option("--layout", "layouts", multiple=True, metavar="L", help="Also fetch the file for a program: kohya ...")
@click.option("--all-files", is_flag=True, help="Fetch every file of the artifacts.")
@click.option("--offline", is_flag=True, help="Use the cache only.")
@force_option
def pull(
    repo: str, names: tuple[str, ...], names_file: str | None, into: str | None, merge: bool, model: str | None,
    layouts: tuple[str, ...], all_files: bool, offline: bool, force: bool,
) -> None:  # fmt: skip
    """Fetch some artifacts of a published collection, by name or by erased concept; the rest is not downloaded."""
    from erase_plugins.cli.run import lines_of
    from hub_cards.cli.push import quiet_client
    from hub_cards.collections import pull_collection
    from hub_cards.fetching import ALL
    from hub_cards.references import parse

    quiet_client()
    wanted = list(dict.fromkeys([*names, *lines_of(names_file), *parse(repo).names]))
    if not wanted:
        raise RequestError(f"name artifacts of it; 'erase-plugins collection list {SCHEME}{repo}' shows what is there")
    if merge:
        _merge(repo, wanted, into, model, offline, force)
        return
    library = pull_collection(
        repo, wanted, into, layouts=(ALL,) if all_files else layouts, offline=offline, force=force
    )  # fmt: skip
    found = library.find(wanted)
    say(f"{len(found)} artifacts, verified, in {library.path}")
    emit({"schema": 1, "folder": str(library.path), **_facts(library, found)})


def _merge(repo: str, names: list[str], into: str | None, model: str | None, offline: bool, force: bool) -> None:
    from erase_plugins.cli.command import base_for
    from hub_cards.collections import merged

    if into is None:
        raise RequestError("--merge needs --into DIR, the artifact folder to write")
    place = check_output(into, force)
    artifact = merged(repo, names, offline=offline)
    saved = artifact.save(place, target=base_for(artifact, model, {}), force=force)
    say(f"{len(names)} artifacts as one: {', '.join(saved.manifest.erased[:8])}")
    say_saved(saved)
    emit({"schema": 1, "artifact": saved_facts(saved)})


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
    from erase_plugins.workflow.collection import Collection
    from hub_cards.cli.push import quiet_client
    from hub_cards.collections import pull_collection

    if not place.startswith(SCHEME) or Path(place).exists():
        return Collection.open(place)
    quiet_client()
    return pull_collection(place)


def _bytes(library: Any) -> int:
    return sum(entry.bytes for entry in library.entries.values())


def _facts(library: Any, names: Any = None) -> dict[str, Any]:
    wanted = library.names() if names is None else names
    base = {key: library.base.get(key) for key in ("model", "revision", "family")}
    return {"base": base, "artifacts": [{"name": name, **vars(library.entries[name])} for name in wanted]}


for _member in (build, listed, push, pull):
    command.add_command(_member)
